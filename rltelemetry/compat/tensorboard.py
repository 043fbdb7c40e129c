"""TensorBoard's `SummaryWriter`, with MLflow behind it: a script switches by its import line.

    from rltelemetry.compat import SummaryWriter   # was: from torch.utils.tensorboard import SummaryWriter

Each scalar is handed over at once, at the cost of a log call; nothing is pending in the writer. `compat.tags` says
which key a tag becomes. As with TensorBoard the console stays quiet; a scalar is an event on the current span, if there
is one.
"""

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog
from opentelemetry.trace import INVALID_SPAN, use_span

from rltelemetry.channels import LEVELS, channel
from rltelemetry.compat.tags import Tags
from rltelemetry.current_span import NO_CONTEXT, SPAN_KEY, read_span_context
from rltelemetry.endings import status_of
from rltelemetry.handoff import CELL
from rltelemetry.pipeline import Telemetry, configure, current
from rltelemetry.settings import ENVIRONMENT
from rltelemetry.spans import UNTRACED

__all__ = ["UNSUPPORTED", "SummaryWriter"]

LOGGER: Final = "summary_writer"
"""The logger's name, for filters; `tensorboard` itself is among the libraries that are hidden."""

UNSUPPORTED: Final = (
    "add_audio",
    "add_custom_scalars",
    "add_custom_scalars_marginchart",
    "add_custom_scalars_multilinechart",
    "add_embedding",
    "add_figure",
    "add_graph",
    "add_histogram",
    "add_histogram_raw",
    "add_image",
    "add_image_with_boxes",
    "add_images",
    "add_mesh",
    "add_onnx_graph",
    "add_pr_curve",
    "add_pr_curve_raw",
    "add_tensor",
    "add_video",
)
"""What MLflow has no view for: these methods are there, say so once, and do nothing."""

TABLE_ROW: Final = re.compile(r"^\|([^|]+)\|(.*)\|\s*$")
TABLE_RULE: Final = re.compile(r"^[\s|:-]+$")


class SummaryWriter:
    """Writes scalars and parameters to the open pipeline; opens one, and closes it, if there is none.

    Args:
        log_dir: its last part names the run. The directory is made, as TensorBoard does: scripts put files there.
        comment: is put behind the name that is made up where `log_dir` is not given.
        purge_step: TensorBoard's; in MLflow the points of a resumed run that are equal are stored once anyway.
        max_queue: TensorBoard's; nothing is queued in the writer.
        flush_secs: TensorBoard's, likewise.
        filename_suffix: TensorBoard's; there is no file.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        comment: str = "",
        purge_step: int | None = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
    ) -> None:
        made_up = f"runs/{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}{comment}"
        self.log_dir = os.fspath(log_dir) if log_dir else made_up
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        self._tags = Tags()
        self._steps: dict[str, int] = {}
        self._said: set[str] = set()
        self._own: Telemetry | None = None if current() else configure(**_names(self.log_dir))

    def add_scalar(
        self,
        tag: str,
        scalar_value: Any,
        global_step: Any = None,
        walltime: float | None = None,
        new_style: bool = False,
        double_precision: bool = False,
    ) -> None:
        """Log one number. Without `global_step` the points of a tag are numbered."""
        try:
            category, field = self._tags.place(tag)
            step = self._step(tag) if global_step is None else global_step
            fields = {"category": category, field: _as_scalar(scalar_value), "global_step": step}
        except Exception:  # a value's own code runs here; it must not reach the training
            fields = {tag: scalar_value}
        self._put("scalar", fields, walltime)

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: Mapping[str, Any], global_step: Any = None, walltime: float | None = None
    ) -> None:
        """Log several numbers under one tag: `main_tag/key`."""
        for key, value in tag_scalar_dict.items():
            self.add_scalar(f"{main_tag}/{key}", value, global_step, walltime)

    def add_text(self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None) -> None:
        """Log a text as an event; a table of two columns (CleanRL's hyperparameters) becomes the run's parameters."""
        telemetry = current()
        if telemetry is not None and (params := _table(text_string)):
            telemetry.log_params(params)
        else:
            self._put(tag, {"text": text_string, "global_step": global_step}, walltime, is_traced=True)

    def add_hparams(
        self,
        hparam_dict: Mapping[str, Any],
        metric_dict: Mapping[str, Any],
        hparam_domain_discrete: Mapping[str, Any] | None = None,
        run_name: str | None = None,
        global_step: Any = None,
    ) -> None:
        """Log the parameters of the run, and what came out of them as numbers."""
        telemetry = current()
        if telemetry is not None:
            telemetry.log_params(hparam_dict)
        for tag, value in metric_dict.items():
            self.add_scalar(tag, value, global_step)

    def get_logdir(self) -> str:
        """Return the directory that names the run."""
        return self.log_dir

    def flush(self) -> None:
        """Have what was logged put on disk now; does not wait, for sending goes on by itself."""
        if CELL.active is not None:
            CELL.active.wake()

    def close(self) -> None:
        """End the run, if this writer has started it."""
        if self._own is not None:
            self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            self._own.close(status_of(error), reason=error)

    def _step(self, tag: str) -> int:
        step = self._steps.get(tag, 0)
        self._steps[tag] = step + 1
        return step

    def _put(
        self, event: str, fields: dict[str, Any], walltime: float | None = None, *, is_traced: bool = False
    ) -> None:
        """Hand one event over; never raises. Outside of a span, a scalar is not worth a trace of its own."""
        if LEVELS["info"] < channel(LOGGER).threshold:
            return
        active = CELL.handoff()
        if active is None:
            CELL.fallback("info", LOGGER, event, fields)
            return
        try:
            stamp_ns = int(walltime * 1e9) if walltime else 0
            with nullcontext() if is_traced or _is_in_span() else use_span(UNTRACED):
                active.put("info", LOGGER, event, fields, {}, stamp_ns=stamp_ns, console=False)
        except Exception:
            active.drops.append("error")

    def _refuse(self, method: str) -> None:
        if method not in self._said:
            self._said.add(method)
            log = structlog.get_logger(LOGGER)
            log.warning(f"SummaryWriter.{method} has no counterpart in MLflow and does nothing")


def _unsupported(method: str) -> Any:
    def refuse(self: SummaryWriter, *_args: Any, **_fields: Any) -> None:
        self._refuse(method)

    refuse.__name__ = method
    refuse.__doc__ = "Do nothing, and say so once: MLflow has no view for this."
    return refuse


for _method in UNSUPPORTED:
    setattr(SummaryWriter, _method, _unsupported(_method))


def _is_in_span() -> bool:
    return read_span_context(NO_CONTEXT).get(SPAN_KEY, INVALID_SPAN) is not INVALID_SPAN


def _as_scalar(value: Any) -> Any:
    """Return arrays of one element as scalars, as TensorBoard does; numbers as they are."""
    shape = getattr(value, "shape", ())
    return value.reshape(()) if shape and all(size == 1 for size in shape) else value


def _table(text: str) -> dict[str, str]:
    """Read a Markdown table of two columns under a header; empty if the text is something else."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or not TABLE_RULE.match(lines[1]):
        return {}
    rows = [TABLE_ROW.match(line) for line in lines]
    return {row[1].strip(): row[2].strip() for row in rows[2:] if row} if all(rows) else {}


def _names(log_dir: str) -> dict[str, Any]:
    """Name run and service after the script's own names, where the environment does not."""
    names = {"run_name": Path(log_dir).name, "service_name": Path(sys.argv[0]).stem or "python"}
    given = {variable.field for variable in ENVIRONMENT if any(map(os.environ.get, variable.names))}
    return {field: name for field, name in names.items() if name and field not in given}
