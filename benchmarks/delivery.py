"""What delivery costs and how fast it catches up, against a real MLflow (sqlite) on loopback.

    nox -s bench -- delivery

catch-up   points that were logged while the server was away, sent when it is back, beside a bare loop of 1000-point
           requests to the same server in the same run; medians.
hung       a server that takes connections and never answers, and a million events: what a log call takes, how much
           memory grows, whether the counts are exact, and how long leaving the block takes.
training   the loop of configs/ppo.yaml with telemetry into the server: what the loop itself waits for log calls and
           spans, and the CPU time of telemetry's own threads, as parts of the process's CPU time; beside it the ratio
           of environment steps per second to the same loop without export, in pairs.
"""

import argparse
import contextlib
import gc
import statistics
import tempfile
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import structlog
from rollout import loop_rate, telemetry_cpu_s

import rltelemetry
from rltelemetry.testing import RealMlflow, ToxicProxy, send
from trainers.config import PpoConfig, load
from trainers.runtime import prepare

KEYS = {f"m{index}": 0.1 * index for index in range(20)}
BATCH = 1000


@contextlib.contextmanager
def telemetry_to(uri: str, **fields: Any) -> Iterator[rltelemetry.Telemetry]:
    with (
        tempfile.TemporaryDirectory(prefix="delivery-") as spools,
        rltelemetry.configure(
            tracking_uri=uri, console="off", system_metrics=False, spool_dir=Path(spools), **fields
        ) as telemetry,
    ):
        yield telemetry


def catch_up_rate(server: RealMlflow, num_events: int) -> float:
    """Points per second from the moment in which the server is back."""
    with ToxicProxy(server.uri) as proxy, telemetry_to(proxy.uri, traces=False, exit_timeout_s=60.0) as telemetry:
        assert telemetry.wait_ready(60.0)
        proxy.stop()
        log = structlog.get_logger("bench")
        for step in range(num_events):
            log.info("train", category="TRAINER", timesteps=step, **KEYS)
        while telemetry.stats().points_extracted < num_events * len(KEYS):
            time.sleep(0.05)
        proxy.start()
        start = time.perf_counter()
        arrived = telemetry.flush(120.0)
        elapsed = time.perf_counter() - start
        assert arrived, telemetry.stats()
        return num_events * len(KEYS) / elapsed


def bare_rate(server: RealMlflow, num_points: int) -> float:
    """Points per second of a loop that does nothing but post."""
    run_id = server.create_run()
    now_ms = time.time_ns() // 1_000_000
    start = time.perf_counter()
    for first in range(0, num_points, BATCH):
        metrics = [
            {"key": f"m{index % 20}", "value": 0.1, "timestamp": now_ms, "step": (first + index) // 20}
            for index in range(BATCH)
        ]
        answer = send(server.uri, "POST", "/api/2.0/mlflow/runs/log-batch", {"run_id": run_id, "metrics": metrics})
        assert answer.status == 200
    return num_points / (time.perf_counter() - start)


def report_catch_up(server: RealMlflow, repeats: int, num_events: int) -> None:
    rates = []
    for _ in range(repeats):
        bare, ours = bare_rate(server, num_events * len(KEYS)), catch_up_rate(server, num_events)
        rates.append((ours, bare, ours / bare))
    ours, bare, ratio = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"catch-up   {ours:,.0f} points/s; bare loop of {BATCH}-point requests {bare:,.0f} points/s; "
        f"ratio {ratio:.0%} (medians of {repeats}, {num_events * len(KEYS):,} points each)"
    )


def report_hung(server: RealMlflow, num_events: int) -> None:
    with ToxicProxy(server.uri) as proxy:
        with telemetry_to(proxy.uri, traces=False) as telemetry:
            assert telemetry.wait_ready(60.0)
            proxy.set_mode("hang")
            log, process = structlog.get_logger("bench"), psutil.Process()
            times_ns = array("q", bytes(8 * num_events))
            gc.collect()
            before, most = process.memory_info().rss, 0
            for step in range(num_events):
                start = time.perf_counter_ns()
                log.info("train", category="TRAINER", timesteps=step, a=0.1, b=0.2, c=0.3)
                times_ns[step] = time.perf_counter_ns() - start
                if step % 10_000 == 0:
                    most = max(most, process.memory_info().rss)
            leaving = time.perf_counter()
        exit_s = time.perf_counter() - leaving
        stats = telemetry.stats()
    ordered = sorted(times_ns)
    p50, p99, worst = (ordered[min(int(part * num_events), num_events - 1)] / 1000 for part in (0.5, 0.99, 1.0))
    is_exact = stats.events_emitted == num_events and stats.points_extracted == (
        stats.points_sent + stats.points_kept + sum(stats.points_dropped.values())
    )
    print(
        f"hung       {num_events:,} events: log call p50 {p50:.2f} us, p99 {p99:.1f} us, worst {worst / 1000:.1f} ms; "
        f"memory +{(most - before) / 2**20:.0f} MB; left in {exit_s:.2f} s; "
        f"{stats}; counts {'exact' if is_exact else 'NOT EXACT'}"
    )


def report_training(server: RealMlflow, pairs: int, seconds: float) -> None:
    config: PpoConfig = load(Path("configs/ppo.yaml"), PpoConfig)
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"eval_interval": 0})})
    runtime = prepare(config.hardware, seed=1)
    with telemetry_to(server.uri, metrics=False, traces=False) as silent:
        rate, _ = loop_rate(config, runtime, 50, silent)
    num_updates = max(10, int(seconds * rate / config.batch_size))
    costs, ratios = [], []
    for pair in range(pairs):
        rates = {}
        for exports in (True, False) if pair % 2 else (False, True):
            with telemetry_to(server.uri, metrics=exports, traces=exports, trace_interval_s=1.0) as telemetry:
                telemetry.wait_ready(60.0 if exports else 0.0)
                process_before, telemetry_before = time.process_time(), telemetry_cpu_s()
                rates[exports], shares = loop_rate(config, runtime, num_updates, telemetry)
                cpu_s = time.process_time() - process_before
                if exports:
                    caller_s = shares["telemetry"] * num_updates * config.batch_size / rates[True]
                    costs.append((caller_s / cpu_s, (telemetry_cpu_s() - telemetry_before) / cpu_s))
        ratios.append(rates[True] / rates[False])
    caller, threads = (statistics.median(column) for column in zip(*costs, strict=True))
    print(
        f"training   {pairs} x {num_updates} updates: caller {caller:.2%} + threads {threads:.2%} = "
        f"{caller + threads:.2%} of the process's CPU; steps/s with export over without: median "
        f"{statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--events", type=int, default=1000, help="of each catch-up; 20 points each")
    parser.add_argument("--flood", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="of each training; 5 pairs make a minute with export"
    )
    options = parser.parse_args()
    with RealMlflow() as server:
        report_catch_up(server, options.repeats, options.events)
        report_hung(server, options.flood)
        report_training(server, options.pairs, options.seconds)


if __name__ == "__main__":
    main()
