"""Extraction: the contract's rules, and every hostile value with its one outcome."""

import math
import posixpath
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.extract import MAX_POINTS, Extraction, Refusal, extract, metric_key
from rltelemetry.schema import MAX_KEY_LENGTH, Category
from rltelemetry.types import MetricPoint, Record
from rltelemetry.values import Unread

TIME_NS = 1_700_000_000_123_999_999


def extracted(category: Category = Category.TRAINER, /, **fields: Any) -> Extraction:
    return extract(Record(TIME_NS, "info", "test", "train", category, fields))


def value_of(value: Any) -> float:
    points, refusals = extracted(timesteps=1, loss=value)
    assert refusals == []
    [point] = points
    assert type(point.value) is float
    return point.value


class Raising:
    def __float__(self) -> float:
        raise RuntimeError("no")


class Scalar:
    def __float__(self) -> float:
        return 2.5


class Untouchable:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def type_name(value: Any) -> str:
    return type(value).__name__


class FakeCudaTensor:
    is_cuda = True
    shape = ()

    def __float__(self) -> float:
        raise AssertionError("a device tensor was read")

    item = __float__


def test_the_example_of_the_contract() -> None:
    points, refusals = extracted(critic_loss=0.5, timesteps=100)
    assert points == [MetricPoint("trainer/critic_loss", 0.5, 100, 1_700_000_000_123)]
    assert refusals == []


@pytest.mark.parametrize("category", Category)
def test_keys_carry_the_prefix_of_the_category(category: Category) -> None:
    assert extracted(category, step=1, a=1).points[0].key == f"{category.value.lower()}/a"


def test_without_a_step_there_is_nothing_to_say() -> None:
    assert extracted(loss=0.5, bad=math.inf) == ([], [])
    assert extracted(loss=0.5, timesteps=None) == ([], [])


def test_the_first_present_step_field_decides_and_none_counts_as_absent() -> None:
    fields = {"update": 5, "global_step": 4, "step": 3, "policy_version": 2, "timesteps": 1, "x": 0.0}
    for name, step in [("timesteps", 1), ("policy_version", 2), ("step", 3), ("global_step", 4), ("update", 5)]:
        assert extracted(**fields).points[0].step == step
        fields[name] = None


def test_step_and_reserved_fields_are_never_metrics() -> None:
    reserved = {"category": 1.0, "telemetry": 1.0, "message": 1.0, "event": 1.0}
    assert extracted(timesteps=1, policy_version=2, step=3, global_step=4, update=5, **reserved) == ([], [])


@pytest.mark.parametrize("step", [2, 2.0, np.int64(2), np.float32(2), np.array(2), Fraction(4, 2), Decimal("2.0")])
def test_an_integral_step_of_any_type_is_an_int(step: Any) -> None:
    [point] = extracted(timesteps=step, x=1.0).points
    assert point.step == 2
    assert type(point.step) is int


@pytest.mark.parametrize(
    "step",
    [1.5, True, np.bool_(True), "7", b"7", math.nan, math.inf, Decimal("sNaN"), 1j, [1], np.array([1]), Raising(),
     Untouchable(), Unread("<cuda tensor int64[]>", "on_device")],
    ids=type_name,
)  # fmt: skip
def test_a_step_that_is_no_integer_refuses_the_event_once(step: Any) -> None:
    assert extracted(timesteps=step, update=1, x=1.0, y=2.0) == ([], [Refusal("timesteps", "bad_step")])


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 1e300, 10**400])
def test_a_step_outside_int64_refuses_the_event_once(step: Any) -> None:
    assert extracted(step=step, x=1.0) == ([], [Refusal("step", "step_out_of_range")])


@pytest.mark.parametrize("step", [2**63 - 1, -(2**63), 0, -1])
def test_every_int64_is_a_step(step: int) -> None:
    assert extracted(step=step, x=1.0).points[0].step == step


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (0.25, 0.25),
        (2**63, 2.0**63),
        (-(10**300), -1e300),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int8(-3), -3.0),
        (np.array(1.5), 1.5),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
        (Scalar(), 2.5),
    ],
)
def test_every_scalar_number_is_a_metric(value: Any, number: float) -> None:
    assert value_of(value) == number


def test_nan_is_exported() -> None:
    assert math.isnan(value_of(math.nan))
    assert math.isnan(value_of(np.float32("nan")))


@pytest.mark.parametrize(
    "value",
    [True, False, None, "1.5", b"1", np.bool_(True), np.array(True), np.str_("2"), [1.0], (1.0,),
     {"a": 1.0}, {1.0}, bytearray(b"1"), object(), Unread("plain", "no such reason")],
)  # fmt: skip
def test_what_is_no_number_is_neither_point_nor_refusal(value: Any) -> None:
    assert extracted(step=1, x=value) == ([], [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.inf, "infinite"),
        (-math.inf, "infinite"),
        (np.float32("inf"), "infinite"),
        (np.longdouble("1e400"), "infinite"),
        (10**400, "not_convertible"),
        (Decimal("sNaN"), "not_convertible"),
        (Raising(), "not_convertible"),
        (Untouchable(), "not_convertible"),
        (1 + 2j, "not_convertible"),
        (np.complex64(1), "not_convertible"),
        (np.array([1.0, 2.0]), "not_scalar"),
        (FakeCudaTensor(), "on_device"),
        (Unread("<cuda tensor float32[]>", "on_device"), "on_device"),
        (Unread("(1+2j)", "not_convertible"), "not_convertible"),
    ],
    ids=type_name,
)
def test_a_refused_value_is_named_and_the_other_fields_survive(value: Any, reason: str) -> None:
    points, refusals = extracted(step=1, before=1.0, bad=value, after=2)
    assert [point.key for point in points] == ["trainer/before", "trainer/after"]
    assert refusals == [Refusal("trainer/bad", reason)]


def test_fields_beyond_the_limit_are_counted() -> None:
    points, refusals = extracted(step=1, **{f"field_{number}": number for number in range(10_000)})
    assert len(points) == MAX_POINTS
    assert len(refusals) == 10_000 - MAX_POINTS
    assert {refusal.reason for refusal in refusals} == {"too_many_fields"}


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("loss", "misc/loss"),
        ("Länge/日本 é.x-y", "misc/Länge/日本 é.x-y"),
        ("a:b", "misc/a_b"),
        ("a%b\n\x1b(c)", "misc/a_b___c_"),
        ("/a//b/", "misc/a/b"),
        ("a/../b/.", "misc/a/_/b/_"),
        ("", "misc/unnamed"),
        ("//", "misc/unnamed"),
        ("\ud800", "misc/_"),
    ],
)
def test_keys_are_made_acceptable(field: str, key: str) -> None:
    assert metric_key(Category.MISC, field) == key


def test_long_keys_are_cut_and_stay_apart() -> None:
    one, two = (metric_key(Category.EVALUATOR, "x" * 300 + end) for end in "ab")
    assert len(one) == len(two) == MAX_KEY_LENGTH
    assert one != two
    assert len(metric_key(Category.EVALUATOR, "x" * 240)) == MAX_KEY_LENGTH


@given(st.sampled_from(Category), st.text(max_size=400))
def test_every_key_obeys_the_rules_of_the_server(category: Category, field: str) -> None:
    key = metric_key(category, field)
    assert re.fullmatch(r"[/\w.\- ]+", key)
    assert posixpath.normpath(key) == key
    assert not key.startswith(("/", ".."))
    assert len(key) <= MAX_KEY_LENGTH
    key.encode()


VALUES = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.text(),
    st.decimals(),
    st.complex_numbers(),
    st.sampled_from([Raising(), Untouchable(), object(), 10**400, np.zeros(3), np.array(None)]),
)


@given(st.dictionaries(st.text() | st.sampled_from(["step", "update"]), VALUES))
def test_extraction_is_total_and_every_number_has_one_outcome(fields: dict[str, Any]) -> None:
    points, refusals = extract(Record(TIME_NS, "info", "test", "x", Category.ACTOR, fields))
    assert len(points) + len(refusals) <= len(fields)
    for point in points:
        assert not math.isinf(point.value)
        assert type(point.value) is float
        assert type(point.step) is int
