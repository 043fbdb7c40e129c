"""Which of SPO's choices decide: CartPole-v1 with one thing changed at a time, over seeds.

    nox -s bench -- ablation
    python benchmarks/ablation.py --variants preset replay-65536 --seeds 1 2 3
    python benchmarks/ablation.py --show

Each run is the real command, `spo --config configs/spo.yaml --seed N` and the variant's flags. What counts is from when
on a mean return of 500 lasts: the first evaluation that is 500, as all after it are, to the end of the budget. A first
500 means little: it is often lost again. `seconds` is the training before the update that it follows on, without
evaluations.

Runs are kept in docs/ablation_spo.json as they come, one for each variant and seed.
"""

import argparse
import json
import statistics
from typing import Any, Final, NamedTuple

from commands import ROOT, events_of

RESULTS: Final = ROOT / "docs" / "ablation_spo.json"
BEST: Final = 500.0

REFERENCE: Final = (
    *("--environment.num-envs", "64", "--training-core.total-timesteps", "81920", "--evaluation.eval-interval", "1"),
    *("--spo.replay-size", "65536", "--spo.targets", "sequences", "--spo.batch-size", "1024"),
    *("--spo.sequence-length", "32", "--spo.replay-ratio", "64", "--spo.target-update", "0.005"),
    *("--spo.init-temperature", "3", "--spo.epsilon-policy", "1e-3", "--optimization.dual-lr", "1e-3"),
    *("--optimization.actor-lr", "3e-4", "--optimization.critic-lr", "3e-4"),
)
"""The hyperparameters of EdanToledo/Stoix @ 8fff19c, ff_spo, with 64 environments: 128 steps of 32 x 32 for each 2048
collected. What search and losses compute stays ours; so does the tree, where particles are not asked for."""

VARIANTS: Final[dict[str, tuple[str, ...]]] = {
    "preset": (),
    "replay-2048": ("--spo.replay-size", "2048"),
    "replay-16384": ("--spo.replay-size", "16384"),
    "replay-65536": ("--spo.replay-size", "65536"),
    "sequences": ("--spo.targets", "sequences", "--spo.target-update", "0.005"),
    "slow-duals": ("--spo.init-temperature", "3", "--optimization.dual-lr", "1e-3"),
    "slow-networks": ("--optimization.actor-lr", "3e-4", "--optimization.critic-lr", "3e-4"),
    "replay-ratio-8": ("--spo.replay-ratio", "8"),
    "particles": ("--search.mode", "particles"),
    "particles-as-reference": (
        *("--search.mode", "particles"),
        *("--search.reference", "readout", "resampler", "terminals", "lineage", "baseline"),
    ),
    "reference": (*REFERENCE, "--search.mode", "particles"),
    "reference-tree": REFERENCE,
}
"""What is changed of configs/spo.yaml. Of particles-as-reference, `readout`, `resampler` and `lineage` act only where
particles are resampled: by the preset's rule, where the effective sample size is low."""


class Outcome(NamedTuple):
    """Of one run.

    Attributes:
        lasting: environment steps from which on the mean return was 500; None if it was not at the end.
        seconds: of training until then, or of all of it.
        last: mean return of the last evaluation.
    """

    lasting: int | None
    seconds: float
    last: float


def run(variant: str, seed: int) -> dict[str, Any]:
    words = ["spo", "--config", "configs/spo.yaml", "--seed", str(seed), *VARIANTS[variant]]
    training_s, evaluations = 0.0, []
    for event in events_of(words):
        if event["event"] == "throughput":
            training_s += (event["rollout_duration_ms"] + event["update_duration_ms"]) / 1000
        elif event["category"] == "EVALUATOR":
            evaluations.append([event["timesteps"], event["mean_return"], round(training_s, 2)])
    return {"command": " ".join(words), "evaluations": evaluations}


def outcome(evaluations: list[list[float]]) -> Outcome:
    first = None
    for row in reversed(evaluations):
        if row[1] < BEST:
            break
        first = row
    last = evaluations[-1]
    return Outcome(int(first[0]) if first else None, (first or last)[2], last[1])


def load() -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def keep(variant: str, seed: int, one: dict[str, Any]) -> None:
    """Put a run in the file at once, beside what others have put there meanwhile."""
    results = load()
    results.setdefault(variant, {})[str(seed)] = one
    for name, runs in results.items():
        results[name] = dict(sorted(runs.items(), key=lambda item: int(item[0])))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def table(results: dict[str, dict[str, Any]]) -> None:
    print("\n| variant                | seeds | a lasting 500 from                  | mean    | seconds |")
    print("|------------------------|-------|-------------------------------------|---------|---------|")
    for variant in VARIANTS:
        outcomes = [outcome(one["evaluations"]) for one in results.get(variant, {}).values()]
        if not outcomes:
            continue
        said = ", ".join(str(one.lasting) if one.lasting else f"({one.last:.0f})" for one in outcomes)
        lasting = [one.lasting for one in outcomes if one.lasting]
        mean = f"{statistics.mean(lasting):7.0f}" if len(lasting) == len(outcomes) else "-"
        seconds = statistics.median(one.seconds for one in outcomes)
        print(f"| {variant:22} | {len(outcomes):5} | {said:35} | {mean:>7} | {seconds:7.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--show", action="store_true", help="run nothing; the table of what there is")
    options = parser.parse_args()
    for seed in [] if options.show else options.seeds:
        for variant in options.variants:
            one = run(variant, seed)
            keep(variant, seed, one)
            print(f"  {variant}, seed {seed}: {outcome(one['evaluations'])}", flush=True)
    table(load())


if __name__ == "__main__":
    main()
