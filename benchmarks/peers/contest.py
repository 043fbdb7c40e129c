"""What a contestant of benchmarks/ppo.py is asked: train for so many seconds, or race to a return.

A contestant is a process that reads one request per line and answers each with one line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Case", "serve"]

Case = dict[str, Any]
"""task, num_envs, horizon, num_epochs, num_minibatches, normalize, image, threads, seed, device; and one's own."""


def serve(train_once: Callable[[], int], race: Callable[[], float] | None = None) -> None:
    """Answer requests until standard input ends.

    Args:
        train_once: collects one rollout and learns from it; returns its environment steps.
        race: trains until an evaluation reaches the target; returns the seconds that took.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # nobody's chatter gets between the answers
    for line in sys.stdin:
        request = json.loads(line)
        if request["what"] == "race":
            assert race is not None, "there is no race in this case"
            answer = {"seconds": race()}
        else:
            answer = _train_for(train_once, request["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


def _train_for(train_once: Callable[[], int], seconds: float) -> dict[str, float]:
    steps, start = 0, time.perf_counter()
    while True:
        steps += train_once()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return {"steps": steps, "seconds": elapsed}
