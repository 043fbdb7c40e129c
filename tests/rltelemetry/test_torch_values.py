"""Torch values in a log call: CPU scalars are read, arrays are named, what lies on an accelerator is left alone."""

import math
import timeit
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from rltelemetry.extract import extract  # noqa: E402
from rltelemetry.schema import Category  # noqa: E402
from rltelemetry.types import Record  # noqa: E402
from rltelemetry.values import freeze  # noqa: E402


def extracted(**fields: Any) -> tuple[list[Any], list[Any]]:
    points, refusals = extract(Record(0, "info", "test", "x", Category.TRAINER, fields))
    return [(point.key, point.value, point.step) for point in points], list(refusals)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(2.5), 2.5),
        (torch.tensor(3), 3),
        (torch.tensor(True), True),
        (torch.tensor(2.0, requires_grad=True), 2.0),
        (torch.tensor(2.0, requires_grad=True) * 2, 4.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    ],
    ids=repr,
)
def test_a_scalar_is_read_in_the_caller(value: Any, expected: Any) -> None:
    frozen = freeze(value)
    assert frozen == expected
    assert type(frozen) is type(expected)


def test_a_read_scalar_does_not_follow_its_tensor() -> None:
    loss = torch.tensor(1.0)
    frozen = freeze(loss)
    loss += 1
    assert frozen == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(64, 4), "float32[64, 4]"),
        (torch.zeros(0, dtype=torch.int64), "int64[0]"),
        (torch.zeros(1), "float32[1]"),
    ],
    ids=repr,
)
def test_an_array_becomes_type_and_shape(value: Any, text: str) -> None:
    frozen = freeze(value)
    assert frozen == text
    assert frozen.refusal == "not_scalar"


@pytest.mark.parametrize("shape", [(), (3,)])
def test_what_lies_elsewhere_is_not_read(shape: tuple[int, ...]) -> None:
    assert freeze(torch.zeros(shape, device="meta")).refusal == "on_device"


@pytest.mark.parametrize(
    ("value", "number"),
    [(torch.tensor(1.5), 1.5), (torch.tensor(1.5, requires_grad=True) * 2, 3.0), (torch.tensor(7), 7.0)],
    ids=repr,
)
def test_a_scalar_is_a_metric(value: Any, number: float) -> None:
    assert extracted(step=torch.tensor(2), x=value) == ([("trainer/x", number, 2)], [])


def test_nan_of_a_tensor_is_a_metric() -> None:
    [(_, value, _)], refusals = extracted(step=1, x=torch.tensor(math.nan))
    assert math.isnan(value)
    assert refusals == []


def test_a_truth_value_is_neither_point_nor_refusal() -> None:
    assert extracted(step=1, x=torch.tensor(True)) == ([], [])


def test_a_vector_is_refused_by_name() -> None:
    points, [refusal] = extracted(step=1, x=torch.zeros(2))
    assert points == []
    assert refusal == ("trainer/x", "not_scalar")


@pytest.mark.parametrize("step", [torch.tensor([1, 2]), torch.tensor(True), torch.tensor(1.5)], ids=repr)
def test_a_step_that_is_no_integer_refuses_the_event(step: Any) -> None:
    assert extracted(timesteps=step, x=1.0) == ([], [("timesteps", "bad_step")])


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_thousand_elements_cost_less_than_twenty_microseconds(is_trained: bool) -> None:
    value = torch.zeros(1000, requires_grad=is_trained)
    assert min(timeit.repeat(lambda: freeze(value), number=100, repeat=20)) / 100 < 20e-6
