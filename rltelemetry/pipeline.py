"""Settings -> a running pipeline; and its end, however the program ends.

`configure` builds the parts, points structlog at them and returns the `Telemetry` that the program holds. One
pipeline is open at a time: configuring again closes the first. A forked child gets a pipeline of its own, with the
first event that it logs, into the same run.
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import structlog
from opentelemetry.trace import INVALID_SPAN, Span

from rltelemetry.endings import STATUSES, Endings, Status, status_of
from rltelemetry.facts import read_artifact_name, read_facts, read_note
from rltelemetry.forks import watch_forks
from rltelemetry.handoff import Call, Handoff
from rltelemetry.life import Life
from rltelemetry.loggers import Tee, take_over
from rltelemetry.processors import normalize_category, sanitize
from rltelemetry.reasons import reason_of
from rltelemetry.settings import Resolved, Settings, resolve
from rltelemetry.stats import Stats
from rltelemetry.values import plain_text, safe_text

if TYPE_CHECKING:
    from rltelemetry.parts import Parts
    from rltelemetry.run import Run

__all__ = ["Telemetry", "configure", "current", "processors"]

LONGEST_S: Final = 1e9
"""Some 30 years."""


def configure(settings: Settings | None = None, **fields: Any) -> "Telemetry":
    """Open the pipeline and point structlog's loggers at it, those that exist included.

    Args:
        settings: settings made elsewhere; `fields` win over it.
        **fields: fields of `Settings`; they win over the environment, and that over the defaults. None means "not
            given".

    Returns:
        The open pipeline: a context manager that ends the run FINISHED, FAILED (exception) or KILLED (signal).

    Raises:
        SettingsError: a keyword argument is unknown or cannot be used.
    """
    given = {name: getattr(settings, name) for name in settings.model_fields_set} if settings else {}
    resolved = resolve(given | {name: value for name, value in fields.items() if value is not None})
    if _current.telemetry is not None:
        _current.telemetry.close()
    telemetry = Telemetry(resolved)
    telemetry._open()
    return telemetry


def current() -> "Telemetry | None":
    """Return the open pipeline of this process, None if there is none."""
    return _current.telemetry


def processors() -> list[Any]:
    """Return the processors that feed the pipeline from a structlog chain of one's own; put them before the renderer.

    The chain's renderer goes on showing the events; this pipeline's console leaves them to it.
    """
    return [normalize_category, sanitize, Tee()]


class Telemetry:
    """An open pipeline.

    No method but `wait_ready`, `commit`, `flush` and `close` may wait, and none raises into the program.
    """

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        self._endings = Endings(self._close_quietly, resolved.settings.handle_signals)
        self._life = Life(resolved, is_worker=_is_worker(resolved), on_child=self._endings.watch_signals)

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run; None until it is known."""
        if (parts := self._life.parts) is None:
            return self._life.origin.run_id
        return parts.run.run_id if parts.run else None

    @property
    def client_uuid(self) -> str:
        """This client's own name for the run, known at once: `configure(client_uuid=...)` goes on in the same run."""
        return self._life.origin.client_uuid

    @property
    def run_url(self) -> str | None:
        """Where the run's page is; None until the run is known."""
        parts = self._life.parts
        return parts.run.run_url if parts and parts.run else None

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the run is known (True), or until it is sure that there will be none or the time is up (False)."""
        parts = self._life.parts
        return parts is not None and parts.run is not None and parts.run.wait_ready(_bounded(timeout_s))

    def span(self, name: str, /, **inputs: Any) -> AbstractContextManager[Span]:
        """Make a span current for a `with` block; events that are logged inside become its events."""
        parts = self._life.working_parts()
        return nullcontext(INVALID_SPAN) if parts is None else parts.spans.span(name, inputs)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters of the run; nested mappings become dotted keys, secrets are masked."""
        facts = read_facts(params)
        self._complain("log_params", facts.problem)
        self._tell_run(lambda run: run.log_params(facts.texts))

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags of the run, likewise."""
        facts = read_facts(tags)
        self._complain("set_tags", facts.problem)
        self._tell_run(lambda run: run.set_tags(facts.texts))

    def describe(self, text: str) -> None:
        """Set the run's description, which stands on top of its page; markdown."""
        note = read_note(text)
        self._tell_run(lambda run: run.set_tags(note.texts))

    def log_text(self, text: str, name: str) -> None:
        """Upload a text as an artifact of the run; it waits in the spool, as points do."""
        content, (target, problem) = plain_text(text), read_artifact_name(name)
        self._complain("log_text", problem)
        if not problem:
            self._tell_run(lambda run: run.log_text(content, target))

    def remove_artifact(self, name: str) -> None:
        """Remove an artifact of the run, uploaded or not yet."""
        target, problem = read_artifact_name(name)
        self._complain("remove_artifact", problem)
        if not problem:
            self._tell_run(lambda run: run.remove_artifact(target))

    def log_artifact(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Upload a file as an artifact of the run; it is read when the server takes it, and must stay until then."""
        try:
            # Path.resolve() would follow links, which is file access
            source = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        except Exception as error:
            self._complain("log_artifact", f"got {safe_text(path)}; expected a path ({safe_text(error)})")
            return
        target, problem = read_artifact_name(name, os.path.basename(source))  # noqa: PTH119
        self._complain("log_artifact", problem)
        if not problem:
            self._tell_run(lambda run: run.log_artifact(source, target))

    def show_progress(self, text: str) -> None:
        """Keep one line below all others, where stderr is a terminal with a dashboard; an empty text takes it away."""
        if (parts := self._life.open_parts) is not None:
            parts.show_progress(text)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all that was logged before has been sent, as far as can be; False on time-out, or once closed."""
        parts = self._life.open_parts
        return parts is not None and parts.worker.flush(_bounded(timeout_s))

    def commit(self, timeout_s: float = 1.0) -> bool:
        """Wait until all that was logged before lies in the spool, where kill -9 cannot reach it.

        False on time-out, once closed, and where there is no such place: an unwritable disk, an export that is off.
        """
        parts = self._life.open_parts
        return parts is not None and parts.worker.commit(_bounded(timeout_s)) and parts.is_durable

    def stats(self) -> Stats:
        """Count what became of everything so far."""
        return self._life.parts.stats() if self._life.parts else Stats()

    def close(self, status: Status = "FINISHED", timeout_s: float | None = None, reason: object = None) -> None:
        """End the run with `status`, send what can be sent within `timeout_s`, and keep the rest in the spool.

        Log calls after this are shown on the console and go nowhere else.

        Args:
            status: how the run has ended.
            timeout_s: longest wait; `exit_timeout_s` of the settings if not given.
            reason: why it has not finished, an exception or a text: becomes the tag `rltelemetry.reason`.
        """
        cause = reason_of(reason)
        if status not in STATUSES:
            expected = ", ".join(STATUSES)
            self._complain("close", f"got {safe_text(status)}; expected {expected}. The run ends FINISHED.")
            status = "FINISHED"
        with self._life.lock:  # a signal handler may close while the main thread is closing
            if self._life.is_closed:
                return
            self._endings.begin_close()  # first: a signal that came in between would take it for done
            self._life.is_closed = True
            limit_s = self._resolved.settings.exit_timeout_s if timeout_s is None else timeout_s
            try:
                self._life.close(status, _bounded(limit_s), cause)
            finally:
                if _current.telemetry is self:
                    _current.telemetry = None
                self._endings.end_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(status_of(error), reason=error)

    @property
    def signals(self) -> Collection[int]:
        """The signals whose handlers are the pipeline's."""
        return self._endings.handled

    def become_child(self) -> None:
        """Forget the parent's parts, in a forked child."""
        self._life.become_child()
        self._endings.become_child()

    def open_in_child(self) -> Handoff | None:
        """Open the child's pipeline, for its first event; None once it was closed, or if it cannot be opened."""
        parts = self._life.working_parts()
        return None if parts is None else parts.handoff

    def close_child(self) -> None:
        """Close the child's pipeline; the run's status is the parent's to say."""
        self.close()

    def _open(self) -> None:
        self._life.build()
        self._endings.install()
        _current.telemetry = self
        watch_forks(lambda: _current.telemetry)
        _point_structlog_here()

    def _tell_run(self, work: "Callable[[Run], None]") -> None:
        self._call(lambda parts: work(parts.run) if parts.run else None)

    def _complain(self, name: str, problem: str) -> None:
        """Say what a call of that name got wrong, if anything."""
        if problem:
            self._call(lambda parts: parts.complain(f"{name}: {problem}"))

    def _call(self, work: "Callable[[Parts], None]") -> None:
        """Have something done on the worker, in the order of the queue."""
        if (parts := self._life.working_parts()) is not None:
            parts.handoff.put_unbounded(Call(lambda: work(parts)))

    def _close_quietly(self, status: Status, reason: object) -> None:
        self.close(status, reason=reason)


class _Current:
    """The open pipeline of this process."""

    telemetry: Telemetry | None = None


_current = _Current()


def _point_structlog_here() -> None:
    """Make every structlog logger ours; the list of processors is kept, since loggers bound before hold on to it."""
    chain = structlog.get_config()["processors"]
    if any(isinstance(processor, Tee) for processor in chain):
        return  # a chain of the program's own, which feeds this pipeline itself
    if not isinstance(chain, list):
        chain = []
    take_over(chain)


def _bounded(timeout_s: float) -> float:
    """A time that one can wait for: infinity, which no lock takes, becomes LONGEST_S, and what is no time 0."""
    return min(max(0.0, timeout_s), LONGEST_S)  # of 0 and no number, max takes what comes first


def _is_worker(resolved: Resolved) -> bool:
    """Whether this is a process that multiprocessing has started, in a run that it was given: its parent's to end."""
    multiprocessing = sys.modules.get("multiprocessing")
    is_worker = multiprocessing is not None and multiprocessing.parent_process() is not None
    return is_worker and resolved.settings.run_id is not None
