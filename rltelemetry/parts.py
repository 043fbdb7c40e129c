"""The parts of one pipeline, put together by `pipeline`: queue, sinks, spool, client, run, worker.

All of it belongs to the worker thread once it runs, but for the queue, the spans and the console's own lock.
"""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from opentelemetry.trace import Span

from rltelemetry.clock import SystemClock
from rltelemetry.export import MlflowExport
from rltelemetry.filtering import Filter
from rltelemetry.handoff import CELL, Handoff, print_plainly
from rltelemetry.intake import Intake
from rltelemetry.labels import Labels, parse_labels
from rltelemetry.notices import Notices
from rltelemetry.nudge import NUDGE
from rltelemetry.run import Run
from rltelemetry.settings import Resolved, Settings
from rltelemetry.sinks.console import ConsoleSink, can_redraw, resolve_mode
from rltelemetry.sinks.mlflow import Ledger, make_loop
from rltelemetry.sinks.otlp import OtlpSink, foreign_endpoint
from rltelemetry.spans import SpanOpener, add_foreign_event
from rltelemetry.stats import Stats
from rltelemetry.types import Fields, Origin, Sink
from rltelemetry.values import safe_text
from rltelemetry.worker import Worker

__all__ = ["Parts"]

PRELOADED: Final = ("encodings.idna", "psutil")
"""What the worker's libraries load on first use, and the resolver's threads, which no gate keeps a fork away from. A
fork while another thread imports leaves the child with an import lock that nobody releases."""

CONSOLE_SHARE: Final = 0.15
"""Part of the closing time that is kept for the last lines on the console."""

SHOWN_AFTER_CLOSE: Final = 100
"""Events that come too late are shown in the caller, whom a stalled terminal holds up; not for ever."""

WATCHED_LOGGERS: Final = ("trainers", "__main__")
"""Loggers whose hidden INFO means that no metrics arrive, which somebody should be told."""


class Parts:
    """Builds the parts of a pipeline and connects them.

    Args:
        resolved: the settings in force.
        origin: whether this is a program's first pipeline or a forked child's.
        environ: the environment, for colours and a foreign OTLP back end.
    """

    def __init__(self, resolved: Resolved, origin: Origin, environ: Mapping[str, str] = os.environ) -> None:
        _preload()
        self._settings = settings = resolved.settings
        self._origin = origin
        self._clock = SystemClock()
        self._open_spans: set[Span] = set()
        self.handoff = Handoff(settings.queue_events, settings.queue_bytes, self._open_spans, add_foreign_event)
        problems = [*resolved.ignored, *resolved.risks]
        self._console = self._make_console(problems, environ)
        self._notices = Notices(self._console.write, self._clock)
        self.filter = self._make_filter(problems)
        self._export = MlflowExport(settings, origin, self._notices, self._clock) if _exports(settings) else None
        self._otlp = self._make_otlp(problems, environ)
        tracer = self._otlp.tracer if self._otlp else None
        self.spans = SpanOpener(tracer, self.handoff, self._open_spans, settings.trace_interval_s)
        self._intake = self._make_intake()
        self.worker = self._make_worker()
        for problem in problems:
            self._notices.once(problem, problem)
        self._say_what_is_hidden(resolved)

    def start(self) -> None:
        """Start the worker."""
        if self._settings.handle_signals:
            NUDGE.install()
        self.worker.start()

    @property
    def run(self) -> Run | None:
        """The run, which belongs to the worker's thread but for what it is called; None if nothing is exported."""
        return self._export.run if self._export else None

    @property
    def spool_path(self) -> Path | None:
        """Where unsent data lies: names this process to its forked children."""
        return self._export.spool_path if self._export else None

    @property
    def is_durable(self) -> bool:
        """Whether what waits lies on a disk."""
        return self._export is not None and self._export.is_durable

    def complain(self, problem: str) -> None:
        """Say what a call got wrong."""
        self._notices.once(problem, problem)

    def show_progress(self, text: str) -> None:
        """Keep a line below the others, on a terminal."""
        self._console.show_progress(text)

    def stats(self) -> Stats:
        """Count what became of everything."""
        events, dropped = self._intake.events_processed, dict(self._intake.events_dropped)
        unconfirmed = self._otlp.num_unconfirmed if self._otlp is not None else 0
        if self._export is None:
            return Stats(events, dropped, spans_unconfirmed=unconfirmed)
        points, spans = self._export.points.counts(), self._export.spans.counts()
        return Stats(
            events_processed=events,
            events_dropped=dropped,
            points_extracted=points.extracted,
            points_sent=points.sent,
            points_kept=points.kept,
            points_dropped=points.dropped,
            spans_sent=spans.sent,
            spans_kept=spans.kept,
            spans_dropped=spans.dropped,
            spans_unconfirmed=unconfirmed,
        )

    def close(self, deadline: float) -> None:
        """End everything before `deadline` (monotonic seconds), and say what became of the data."""
        share = max(0.0, deadline - time.monotonic()) * CONSOLE_SHARE
        self.worker.close(max(0.0, deadline - share - time.monotonic()))
        NUDGE.remove()
        if self._otlp is not None:
            self._otlp.close(max(0.0, deadline - share - time.monotonic()))
        if (self._export is not None or self._otlp is not None) and not self._is_quiet_child():
            self._notices.info(self._last_line())
        CELL.fallback = self._after_close
        self._console.close(max(share, deadline - time.monotonic()))

    def _after_close(self, level: str, logger: str, event: Any, fields: Fields) -> None:
        """Show an event that comes too late, and count it: there is no worker any more."""
        self._intake.events_dropped["closed"] += 1
        if self._settings.console != "off" and self._intake.events_dropped["closed"] <= SHOWN_AFTER_CLOSE:
            print_plainly(level, logger, event, fields)

    def _is_quiet_child(self) -> bool:
        """Whether this is a forked child that has lost nothing: its parent sends the rest and has the last word."""
        stats = self.stats()
        has_lost = any(stats.events_dropped.values()) or stats.points_dropped or stats.spans_unconfirmed
        return self._origin.is_child and not has_lost

    def _last_line(self) -> str:
        line = f"telemetry closed; {self.stats()}"
        if self._export is not None and (kept := self._export.describe_kept()):
            line += f"; {kept}"
        return line

    def _make_console(self, problems: list[str], environ: Mapping[str, str]) -> ConsoleSink:
        given = self._settings.metric_labels
        overrides, label_problems = (given, []) if isinstance(given, dict) else parse_labels(given)
        problems += label_problems
        mode, color = resolve_mode(self._settings.console, sys.stderr, environ)
        return ConsoleSink(sys.stderr, Labels(overrides), mode, color, has_footer=can_redraw(sys.stderr, environ))

    def _make_filter(self, problems: list[str]) -> Filter:
        settings = self._settings
        if settings.log_filter is not None:
            chosen, filter_problems = Filter.parse(settings.log_filter)
        else:
            chosen, filter_problems = Filter.from_level(settings.log_level, settings.backend_logs_visible)
        problems += filter_problems
        return chosen

    def _make_otlp(self, problems: list[str], environ: Mapping[str, str]) -> OtlpSink | None:
        settings, mlflow = self._settings, self._export
        if not settings.traces or (mlflow is None and not foreign_endpoint(environ)):
            return None
        deliver = mlflow.sink.add_traces if mlflow else None
        account = mlflow.spans if mlflow else Ledger()

        def run_id() -> str | None:
            return self.run.run_id if self.run else None

        try:
            return OtlpSink(settings.service_name, deliver, run_id, self._open_spans, environ, account.refuse)
        except ValueError as error:  # in the SDK's words, which name the variable
            problems.append(f"traces are off: OpenTelemetry cannot use its environment: {safe_text(error)}")
            return None

    def _make_intake(self) -> Intake:
        sinks: list[Sink] = [self._console]
        if self._otlp is not None:
            sinks.append(self._otlp)
        if self._export is not None:
            sinks.append(self._export.sink)  # last: its commit stores what the tracing sink has encoded
        return Intake(self.handoff, self._otlp, sinks, self._notices)

    def _make_worker(self) -> Worker:
        mlflow = self._export
        return Worker(
            self.handoff,
            self._intake,
            delivery=mlflow,
            background=[NUDGE.run, *(mlflow.background if mlflow else [])],
            notices=self._notices,
            make_loop=make_loop,
            on_loop_lost=mlflow.leave_loop if mlflow else None,
        )

    def _say_what_is_hidden(self, resolved: Resolved) -> None:
        source = resolved.sources.get("log_filter") or resolved.sources.get("log_level")
        hidden = (self.filter.describe_hidden(name) for name in WATCHED_LOGGERS)
        reason = next((text for text in hidden if text), None)
        if reason is not None and source is not None:
            value = resolved.settings.log_filter or resolved.settings.log_level
            self._notices.once("hidden", f"{source}={value} hides metrics: {reason}; they are not exported either")


def _preload() -> None:
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _exports(settings: Settings) -> bool:
    return settings.metrics or settings.traces
