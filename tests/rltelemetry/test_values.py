"""What values become, hostile ones above all: plain, bounded, safe, and never an exception."""

import copy
import io
import pickle
import sys
import threading
import timeit
from collections import OrderedDict, UserDict, deque, namedtuple
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.redact import MASK, MAX_TEXT, escape_controls
from rltelemetry.schema import Category
from rltelemetry.values import Unread, clean_field, clean_value, freeze, safe_text

SECRET = "hunter2-XyZ"


class RaisingRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class RaisingEverything:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class HostileClass(metaclass=HostileMeta):
    pass


class RaisingFloat:
    def __float__(self) -> float:
        raise RuntimeError("no")


class HostileInt(int):
    def __int__(self) -> int:
        raise RuntimeError("no")

    __repr__ = __str__ = __index__ = __float__ = __int__  # type: ignore[assignment]


class HostileStr(str):
    def __str__(self) -> str:
        raise RuntimeError("no")

    __len__ = __repr__ = __hash__ = __str__  # type: ignore[assignment]


class HostileDict(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError("no")

    __len__ = __iter__ = items


class Color(Enum):
    RED = 1


class Size(IntEnum):
    SMALL = 3


Pair = namedtuple("Pair", "left right")
Login = namedtuple("Login", "user password")


def recursive() -> list[Any]:
    loop: list[Any] = [1]
    loop.append(loop)
    loop.append({"loop": loop})
    return loop


HOSTILE: list[Any] = [
    RaisingRepr(), RaisingEverything(), HostileClass(), HostileClass, RaisingFloat(), HostileInt(3), HostileStr("text"),
    HostileDict(a=1), recursive(), [RaisingRepr(), RaisingEverything()],
    MagicMock(), Decimal("sNaN"), Fraction(10**400), 10**5000, [10**5000], 1j, "x" * 2**20, b"\xff" * 2**20, "\ud800",
    bytearray(10), memoryview(b"abc"), np.array([RaisingRepr()], dtype=object), np.array(RaisingRepr(), dtype=object),
    ValueError(RaisingRepr()), UserDict(a=1), range(10**9),
    threading.Lock(), sys, io.StringIO(), SimpleNamespace(shape=(1, 2)), SimpleNamespace(shape=(), dtype=RaisingRepr()),
    np.longdouble("1e400"), np.datetime64("2026-01-01"), np.zeros((), dtype=[("a", "i4")]), Color, object,
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(HOSTILE)))  # some are too hostile for pytest itself
def test_a_hostile_value_becomes_something_safe(index: int) -> None:
    value = HOSTILE[index]
    frozen = freeze(value)
    assert type(frozen) in {int, float, str, bool, type(None), bytes, Unread}
    cleaned = clean_value(value)
    assert type(cleaned) in {int, float, str, bool, type(None), Unread}
    for text in [str(cleaned), safe_text(value)]:
        assert len(text) <= MAX_TEXT * 5
        assert text.isprintable()


def test_a_value_that_cannot_be_shown_says_its_type() -> None:
    assert freeze(RaisingRepr()) == "<unrepresentable RaisingRepr>"
    assert freeze(HostileClass()) == "<unrepresentable HostileClass>"
    assert freeze([1, RaisingRepr()]) == "[1, <unrepresentable RaisingRepr>]"


@pytest.mark.parametrize("value", [0, -3, 2**70, 0.5, "text", True, None, b"bytes"])
def test_plain_values_pass_as_they_are(value: Any) -> None:
    assert freeze(value) is value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(2), 2),
        (np.longdouble("0.5"), 0.5),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 2), 0.5),
        (Size.SMALL, 3),
    ],
)
def test_scalars_become_python_values(value: Any, expected: Any) -> None:
    frozen = freeze(value)
    assert frozen == expected
    assert type(frozen) is type(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros((64, 4), np.float32), "float32[64, 4]"),
        (np.zeros(1), "float64[1]"),
    ],
)
def test_arrays_become_type_and_shape(value: Any, text: str) -> None:
    frozen = freeze(value)
    assert frozen == text
    assert frozen.refusal == "not_scalar"


class FakeCudaTensor:
    is_cuda = True
    dtype = np.dtype("float32")

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def item(self) -> float:
        raise AssertionError("a device tensor was read")

    __float__ = cpu = numpy = detach = __repr__ = item  # type: ignore[assignment]


@pytest.mark.parametrize(("shape", "text"), [((), "<cuda tensor float32[]>"), ((2, 3), "<cuda tensor float32[2, 3]>")])
def test_a_device_tensor_is_never_read(shape: tuple[int, ...], text: str) -> None:
    frozen = freeze(FakeCudaTensor(*shape))
    assert frozen == text
    assert frozen.refusal == "on_device"
    assert clean_value(frozen).refusal == "on_device"
    assert freeze([FakeCudaTensor()]) == "[<cuda tensor float32[]>]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2], "[1, 2]"),
        ((1,), "(1)"),
        ({"a": 1.5, "b": None}, "{'a': 1.5, 'b': None}"),
        (OrderedDict(a=1), "{'a': 1}"),
        (deque([1]), "[1]"),
        (Pair(1, "x"), "(1, 'x')"),
        (list(range(100_000)), "[0, 1, 2, 3, 4, 5, ...]"),
        ([[[[1]]]], "[[[[...]]]]"),
        ({"password": SECRET, "n": {"api_key": SECRET}}, "{'password': ***, 'n': {'api_key': ***}}"),
        ({"password": {"prod": SECRET}, "n": 1}, "{'password': ***, 'n': 1}"),
        ([{"passwords": [SECRET]}], "[{'passwords': ***}]"),
        ({"password": ("bob", SECRET)}, "{'password': ***}"),
        ({"password": SimpleNamespace(x=SECRET)}, "{'password': ***}"),
        ({"password": np.array(SECRET)}, "{'password': ***}"),
        ({b"password": SECRET.encode()}, "{b'password': ***}"),
        (SimpleNamespace(password=[SECRET]), "namespace(password=***)"),
        (Login("bob", SECRET), "('bob', ***)"),
        ({"tokens": [101, 0.5], "num_tokens": 3}, "{'tokens': [101, 0.5], 'num_tokens': 3}"),
        ({"tokens": {"prompt": 512}}, "{'tokens': {'prompt': 512}}"),
        ({"tokens": {"wandb": SECRET}, "api_tokens": SECRET}, "{'tokens': ***, 'api_tokens': ***}"),
        ([np.zeros(1000), np.float32(1)], "[float64[1000], 1.0]"),
        (["x" * 100], "['" + "x" * 80 + "... (20 more characters)']"),
    ],
)
def test_containers_become_a_bounded_outline(value: Any, text: str) -> None:
    assert freeze(value) == text


def test_a_snapshot_does_not_change_with_its_source() -> None:
    source = {"a": [1]}
    frozen = freeze(source)
    source["a"].append(2)
    assert frozen == "{'a': [1]}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ValueError("bad"), "ValueError: bad"),
        (Path("a/b"), "a/b"),
        (Color.RED, "RED"),
        (Category.TRAINER, "TRAINER"),
    ],
)
def test_the_rest_becomes_text(value: Any, text: str) -> None:
    frozen = freeze(value)
    assert type(frozen) is str
    assert frozen == text


def test_subclasses_of_plain_types_are_read_past_their_own_methods() -> None:
    assert (type(freeze(HostileInt(3))), freeze(HostileInt(3))) == (int, 3)
    assert (type(freeze(HostileStr("text"))), freeze(HostileStr("text"))) == (str, "text")


def test_rendered_texts_are_cut_in_the_caller() -> None:
    assert freeze(ValueError("x" * 5000)).endswith("more characters)")
    assert len(freeze(ValueError("x" * 5000))) < 1100


def test_a_thousand_elements_cost_less_than_twenty_microseconds() -> None:
    value = np.zeros(1000)
    assert min(timeit.repeat(lambda: freeze(value), number=100, repeat=20)) / 100 < 20e-6


@pytest.mark.parametrize(("value", "refusal"), [(RaisingFloat(), "not_convertible"), (1j, "not_convertible")])
def test_a_number_that_cannot_be_read_keeps_its_reason_through_the_chain(value: Any, refusal: str) -> None:
    assert clean_value(freeze(value)).refusal == refusal


def test_an_unread_text_keeps_its_reason_when_it_has_to_be_cleaned() -> None:
    cleaned = clean_value(Unread("float32\x1b[]", "on_device"))
    assert (cleaned, cleaned.refusal) == (r"float32\x1b[]", "on_device")


def test_unread_texts_travel() -> None:
    text = Unread("<cuda tensor float32[]>", "on_device")
    for other in [pickle.loads(pickle.dumps(text)), copy.deepcopy(text), freeze(text)]:
        assert (other, other.refusal) == (text, "on_device")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (2**70, 2**70),
        (10**400, "<integer of 1329 bits>"),
        ("a\x1b", r"a\x1b"),
        ("token=abc", "token=***"),
        (b"caf\xc3\xa9\xff\n", r"café\xff\n"),
        (np.float32(0.5), 0.5),
        ([1], "[1]"),
    ],
)
def test_clean_values_are_safe_for_every_sink(value: Any, expected: Any) -> None:
    assert clean_value(value) == expected


HOSTILE_VALUES = st.integers(0, len(HOSTILE) - 1).map(lambda index: HOSTILE[index])  # sampled_from prints them all


@given(
    st.recursive(
        st.text() | st.binary() | st.floats() | st.integers() | st.none() | HOSTILE_VALUES,
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    )
)
def test_any_structure_becomes_a_clean_value(value: Any) -> None:
    cleaned = clean_value(freeze(value))
    assert type(cleaned) in {int, float, str, bool, type(None), Unread}
    assert not isinstance(cleaned, str) or escape_controls(cleaned) == cleaned


def test_a_secret_across_the_cut_of_an_element_is_gone() -> None:
    assert "hunter" not in freeze(["https://oauth2:" + "hunter2" * 30 + "@gitlab/x"])


@pytest.mark.parametrize(("name", "shown"), [("password", MASK), ("passwords", MASK), ("note", "text")])
def test_a_text_under_a_secret_name_is_masked(name: str, shown: str) -> None:
    assert clean_field(name, "text") == shown


@pytest.mark.parametrize(
    ("name", "value"),
    [("api_keys", {"wandb": SECRET}), ("tokens", SECRET), ("tokens", [SECRET]), ("api_tokens", {"wandb": SECRET})],
)
def test_a_container_of_texts_under_a_secret_name_is_masked(name: str, value: Any) -> None:
    assert clean_field(name, freeze(value)) == MASK


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss_per_token", 0.5), ("tokens", 512), ("tokens", [101, 0.5]), ("total_tokens", {"prompt": 512})],
)
def test_a_number_under_a_secret_name_is_a_measure(name: str, value: Any) -> None:
    assert clean_field(name, freeze(value)) == freeze(value)


def test_a_number_that_was_not_read_keeps_its_reason_under_a_secret_name() -> None:
    assert clean_field("loss_per_token", FakeCudaTensor()).refusal == "on_device"
