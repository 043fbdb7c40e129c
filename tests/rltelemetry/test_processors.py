"""The processors, alone and in a plain structlog chain."""

import json
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.processors import normalize_category, sanitize
from rltelemetry.schema import Category
from rltelemetry.values import freeze


def normalized(**fields: Any) -> Any:
    return normalize_category(None, "info", fields)


def sanitized(fields: Any) -> Any:
    return sanitize(None, "info", fields)


class RaisingRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


@pytest.mark.parametrize(
    ("name", "category"),
    [("TRAINER", "TRAINER"), ("train", "TRAINER"), ("Act", "ACTOR"), (" actor ", "ACTOR"), ("eval", "EVALUATOR"),
     ("Evaluator", "EVALUATOR"), ("misc", "MISC"), ("other", "MISC"), ("", "MISC"), (3, "MISC"),
     (RaisingRepr(), "MISC"), (Category.ACTOR, "ACTOR"), (freeze(Category.ACTOR), "ACTOR")],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_category_names_are_normalised(name: Any, category: str) -> None:
    assert normalized(category=name) == {"category": category}
    assert normalized(telemetry=name) == {"category": category}


def test_a_missing_category_is_misc() -> None:
    assert normalized(event="x") == {"event": "x", "category": "MISC"}
    assert normalized(category=None) == {"category": "MISC"}


def test_category_decides_over_its_alias() -> None:
    assert normalized(category="ACT", telemetry="TRAIN") == {"category": "ACTOR", "telemetry": "TRAIN"}
    assert normalized(category=None, telemetry="TRAIN") == {"category": "TRAINER"}


def test_event_keys_and_values_are_made_safe() -> None:
    assert sanitized({"event": "a\nb\x1b", "k\n\x1b": "v\r", "n": np.float32(0.5), "list": [1]}) == {
        "event": r"a\nb\x1b",
        r"k\n\x1b": r"v\r",
        "n": 0.5,
        "list": "[1]",
    }


def test_keys_that_become_equal_stay_apart() -> None:
    assert sanitized({"a\n": 1, r"a\n": 2, "": 3}) == {r"a\n_": 1, r"a\n": 2, "_": 3}


def test_a_safe_key_keeps_its_name_before_one_that_had_to_be_cleaned() -> None:
    assert sanitized({"": 1, "_": 2}) == {"__": 1, "_": 2}


def test_long_keys_are_cut() -> None:
    [key] = sanitized({"k" * 2**20: 1})
    assert len(key) < 300


def test_secrets_are_masked_by_name_and_numbers_stay() -> None:
    assert sanitized({"password": "x", "api_key": b"x", "token": ["x"], "loss_per_token": 0.5, "n": "ok"}) == {
        "password": "***",
        "api_key": "***",
        "token": "***",
        "loss_per_token": 0.5,
        "n": "ok",
    }


def test_secrets_in_texts_are_masked() -> None:
    assert sanitized({"event": "GET http://u:p@h", "url": "h?token=abc"}) == {
        "event": "GET http://***@h",
        "url": "h?token=***",
    }


def test_tracebacks_keep_their_newlines_and_lose_the_rest() -> None:
    text = 'Traceback:\n  File "x"\nValueError: \x1b[31m http://u:p@h'
    assert sanitized({"exception": text}) == {"exception": 'Traceback:\n  File "x"\nValueError: \\x1b[31m http://***@h'}
    assert len(sanitized({"exception": "x\n" * 2**20})["exception"]) < 40_000


def test_an_event_that_is_no_text_becomes_one() -> None:
    assert sanitized({"event": 3}) == {"event": "3"}
    assert sanitized({"event": None}) == {"event": "None"}
    assert sanitized({"event": RaisingRepr()}) == {"event": "<unrepresentable RaisingRepr>"}


def test_orders_for_later_processors_are_untouched() -> None:
    exc_info = (ValueError, ValueError("x"), None)
    assert sanitized({"exc_info": exc_info, "stack_info": True}) == {"exc_info": exc_info, "stack_info": True}


def test_the_processors_work_in_a_plain_structlog_chain() -> None:
    lines: list[str] = []
    logger = structlog.wrap_logger(
        structlog.testing.CapturingLogger(),
        processors=[
            normalize_category,
            structlog.processors.format_exc_info,
            sanitize,
            structlog.processors.JSONRenderer(),
            lambda _, __, text: lines.append(text) or text,
        ],
    )
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("failed", telemetry="train", critic_loss=np.float32(0.5))
    fields = json.loads(lines[0])
    assert fields["category"] == "TRAINER"
    assert fields["critic_loss"] == 0.5
    assert fields["exception"].endswith("\nValueError: bad")


KEYS = st.text() | st.sampled_from(["event", "category", "telemetry", "exception", "exc_info", "password"])
VALUES = st.text() | st.floats() | st.none() | st.binary() | st.lists(st.integers()) | st.just(RaisingRepr())


@given(st.dictionaries(KEYS, VALUES))
def test_no_event_makes_a_processor_raise(fields: dict[str, Any]) -> None:
    event_dict = sanitize(None, "info", normalize_category(None, "info", dict(fields)))
    assert len(event_dict) >= len(fields) - 1
