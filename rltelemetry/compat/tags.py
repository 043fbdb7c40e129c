"""The names of other libraries -> the contract: `losses/value_loss` is TRAINER's `value_loss`.

The rule, in this order:

1. The first segment names a category if it stands in SEGMENTS; it goes, and the rest is the field: `train/loss` ->
   `trainer/loss`.
2. Behind a segment that may hold anything (`charts/`, or none at all) the name decides: with a word of ACTOR_WORDS it
   is ACTOR (`charts/episodic_return`), with one of TRAINER_ENDS at its end TRAINER (`charts/learning_rate`), otherwise
   MISC (`charts/SPS`).
3. Every other tag is MISC, whole: `perf/gpu` -> `misc/perf/gpu`.

Where two tags would meet in one field, or a field would be taken for the step, the later one keeps its first segment.
"""

import re
from collections.abc import Mapping
from typing import Final

from rltelemetry.schema import RESERVED_FIELDS, STEP_FIELDS, Category

__all__ = ["ACTOR_WORDS", "ANYTHING", "SEGMENTS", "TRAINER_ENDS", "Tags"]

SEGMENTS: Final[Mapping[str, Category]] = {
    "trainer": Category.TRAINER,
    "train": Category.TRAINER,
    "loss": Category.TRAINER,
    "losses": Category.TRAINER,
    "actor": Category.ACTOR,
    "act": Category.ACTOR,
    "rollout": Category.ACTOR,
    "evaluator": Category.EVALUATOR,
    "eval": Category.EVALUATOR,
    "evaluation": Category.EVALUATOR,
    "test": Category.EVALUATOR,
    "misc": Category.MISC,
    "time": Category.MISC,
}
"""Lower-case first segments, as TensorBoard scripts, CleanRL and Stable-Baselines3 have them."""

ANYTHING: Final = frozenset({"charts", ""})
ACTOR_WORDS: Final = frozenset({"ep", "episode", "episodes", "episodic"})
TRAINER_ENDS: Final = (("loss",), ("learning", "rate"), ("lr",), ("entropy",), ("kl",))

NEVER_FIELDS: Final = RESERVED_FIELDS.union(STEP_FIELDS)
MAX_TAGS: Final = 100_000
"""Tags that are made of data must not fill the memory; beyond this many they are not remembered."""

_WORD: Final = re.compile(r"[a-z0-9]+")


class Tags:
    """The category and the field of every tag; each tag keeps what it was given first."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Category, str]] = {}
        self._taken: set[tuple[Category, str]] = set()

    def place(self, tag: str) -> tuple[Category, str]:
        """Return where the values of a tag belong."""
        place = self._known.get(tag)
        if place is None:
            place = self._choose(tag)
            if len(self._known) < MAX_TAGS:
                self._known[tag] = place
                self._taken.add(place)
        return place

    def _choose(self, tag: str) -> tuple[Category, str]:
        first, separator, rest = tag.partition("/")
        if not separator:
            first, rest = "", tag
        segment = first.strip().lower()
        if segment in SEGMENTS:
            category, field = SEGMENTS[segment], rest
        elif segment in ANYTHING:
            category, field = _by_name(rest), rest
        else:
            return Category.MISC, tag
        is_free = field and field not in NEVER_FIELDS and (category, field) not in self._taken
        return category, field if is_free else f"{first or 'tag'}/{field}"


def _by_name(name: str) -> Category:
    words = _WORD.findall(name.lower())
    if not ACTOR_WORDS.isdisjoint(words):
        return Category.ACTOR
    is_trainer = any(words[-len(end) :] == list(end) for end in TRAINER_ENDS)
    return Category.TRAINER if is_trainer else Category.MISC
