"""What one log call costs the caller: 12 numbers, a step and a category, inside a span.

    nox -s bench -- log_call

Every variant runs in this process, interleaved, and is shown as microseconds of the caller's wall time and as a ratio
to the floor: a Python function with the same keywords that stamps and appends. "Hot" is a tight loop; "cold" is one
call after a sweep through 64 MB, as between two updates of a training. "process" is the CPU time of the whole process
per event, worker included: work that the caller does not pay is not free. Slow peers run fewer events.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import numpy as np
import structlog
from opentelemetry.sdk.trace import TracerProvider

import rltelemetry

Call = Callable[[], Any]
CHEAP = 10_000


class Variant(NamedTuple):
    name: str
    call: Call
    events: int
    settle: Callable[[], Any]


def fields(log: Callable[..., Any]) -> Call:
    def call() -> None:
        log(
            "train", category="TRAINER", timesteps=100, m0=0.1, m1=0.2, m2=0.3, m3=0.4, m4=0.5, m5=0.6,
            m6=0.7, m7=0.8, m8=0.9, m9=1.0, m10=1.1, m11=1.2,
        )  # fmt: skip

    return call


METRICS = {f"m{i}": 0.1 * (i + 1) for i in range(12)}


def nothing() -> None:
    return None


def floor() -> Variant:
    kept: deque[Any] = deque()

    def log(event: str, **kw: Any) -> None:
        kept.append((time.time_ns(), event, kw))

    return Variant("floor: function, stamp, append", fields(log), CHEAP, kept.clear)


@contextlib.contextmanager
def fake_mlflow() -> Iterator[str]:
    """A fake server in a process of its own, so that its CPU time is not counted."""
    code = "import sys; from rltelemetry.testing import FakeMlflow\n"
    code += "with FakeMlflow() as server: print(server.uri, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def ours(stack: contextlib.ExitStack) -> list[Variant]:
    uri = stack.enter_context(fake_mlflow())
    telemetry = stack.enter_context(
        rltelemetry.configure(tracking_uri=uri, console="off", system_metrics=False, queue_events=200_000)
    )
    telemetry.wait_ready(10)
    stack.enter_context(telemetry.span("update", update=1))
    log = structlog.get_logger("bench")
    log.info("warm")

    def settle() -> None:
        telemetry.flush(60)

    return [
        Variant("rltelemetry, get_logger()", fields(log.info), CHEAP, settle),
        Variant("rltelemetry, bound logger", fields(log.bind(run="bench").info), CHEAP, settle),
        Variant("rltelemetry, filtered out", fields(log.debug), CHEAP, nothing),
    ]


def stock_structlog() -> Variant:
    log = structlog.wrap_logger(
        structlog.PrintLogger(Path(os.devnull).open("w")),  # noqa: SIM115 - lives as long as the process
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    ).bind()
    return Variant("structlog, stock JSON chain", fields(log.info), CHEAP, nothing)


def stdlib_logging() -> Variant:
    logger = logging.getLogger("bench.stdlib")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    stream = Path(os.devnull).open("w")  # noqa: SIM115 - lives as long as the process
    logger.addHandler(logging.StreamHandler(stream))
    extra = {"category": "TRAINER", "timesteps": 100, **METRICS}
    return Variant("logging, StreamHandler, extra=", lambda: logger.info("train", extra=extra), CHEAP, nothing)


def otel_event() -> Variant:
    span = TracerProvider().get_tracer("bench").start_span("update")
    attributes = {"category": "TRAINER", "timesteps": 100, **METRICS}
    return Variant("OpenTelemetry, span.add_event", lambda: span.add_event("train", attributes), CHEAP, nothing)


def tensorboard(folder: Path) -> Variant:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def call() -> None:
        for key, value in METRICS.items():
            writer.add_scalar(key, value, 100)

    return Variant("TensorBoard, 12 add_scalar", call, 1000, writer.flush)


def wandb_offline(folder: Path) -> Variant:
    import wandb

    run = wandb.init(mode="offline", dir=str(folder), settings=wandb.Settings(silent=True, console="off"))
    return Variant("wandb offline, run.log", lambda: run.log({**METRICS, "timesteps": 100}), 3000, nothing)


def mlflow_async(stack: contextlib.ExitStack) -> Variant:
    import mlflow

    mlflow.set_tracking_uri(stack.enter_context(fake_mlflow()))
    mlflow.start_run()

    def call() -> None:
        mlflow.log_metrics(METRICS, step=100, synchronous=False)

    return Variant("MLflow, async log_metrics", call, 300, mlflow.flush_async_logging)


def peers(stack: contextlib.ExitStack, folder: Path) -> Iterator[Variant]:
    for make in (
        lambda: tensorboard(folder / "tensorboard"),
        lambda: wandb_offline(folder),
        lambda: mlflow_async(stack),
    ):
        try:
            yield make()
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)


def hot_us(variant: Variant) -> tuple[float, float]:
    """Microseconds per event of the caller, and of the process until everything has settled."""
    gc.collect()
    time.sleep(0.05)  # what an earlier variant left to its threads is over
    cpu = time.process_time()
    start = time.perf_counter()
    for _ in range(variant.events):
        variant.call()
    caller = time.perf_counter() - start
    variant.settle()
    return caller / variant.events * 1e6, (time.process_time() - cpu) / variant.events * 1e6


def cold_us(variant: Variant, sweep: np.ndarray[Any, Any]) -> float:
    sweep += 1
    start = time.perf_counter()
    variant.call()
    return (time.perf_counter() - start) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cold-calls", type=int, default=150)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="log-call-"))
    try:
        with contextlib.ExitStack() as stack:
            variants = [floor(), *ours(stack), stock_structlog(), stdlib_logging(), otel_event()]
            if not options.no_peers:
                variants += peers(stack, folder)
            report(variants, options.repeats, options.cold_calls)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def report(variants: list[Variant], repeats: int, cold_calls: int) -> None:
    hot: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in variants}
    for repeat in range(repeats):
        shift = repeat % len(variants)  # nobody always runs behind the same neighbour
        for variant in variants[shift:] + variants[:shift]:
            hot[variant.name].append(hot_us(variant))
    sweep = np.zeros(8 * 2**20, dtype=np.float64)
    # The bound logger would find the code of the variant before it still in the last-level cache: left out.
    in_cold = [variant for variant in variants if variant.events == CHEAP and "bound" not in variant.name]
    cold: dict[str, list[float]] = {variant.name: [] for variant in in_cold}
    for call in range(cold_calls):
        shift = call % len(in_cold)
        for variant in in_cold[shift:] + in_cold[:shift]:
            cold[variant.name].append(cold_us(variant, sweep))
    for variant in variants:
        variant.settle()
    base = variants[0].name
    hot_base = statistics.median(us for us, _ in hot[base])
    cold_base = statistics.median(cold[base])
    us_of_ours = statistics.median(us for us, _ in hot[variants[1].name])
    print(f"{'variant':34} {'hot us':>9} {'x floor':>8} {'x ours':>8} {'cold us':>8} {'x floor':>8} {'process us':>11}")
    for variant in variants:
        us = statistics.median(us for us, _ in hot[variant.name])
        process = statistics.median(cpu for _, cpu in hot[variant.name])
        line = f"{variant.name:34} {us:9.2f} {us / hot_base:8.2f} {us / us_of_ours:8.1f}"
        if variant.name in cold:
            cold_median = statistics.median(cold[variant.name])
            line += f" {cold_median:8.1f} {cold_median / cold_base:8.2f}"
        else:
            line += f" {'-':>8} {'-':>8}"
        print(f"{line} {process:11.1f}")
    print(json.dumps({"python": sys.version.split()[0], "repeats": repeats, "cold_calls": cold_calls}))


if __name__ == "__main__":
    main()
