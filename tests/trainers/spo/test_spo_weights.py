import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.spo.weights import effective_sample_size, entropy, normalize, resample, systematic

rows = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)
temperatures = st.floats(1e-8, 1e6)


def weights_of(*numbers: float) -> torch.Tensor:
    row = torch.tensor([numbers])
    return row / row.sum()


@given(rows, temperatures)
def test_weights_are_finite_positive_and_sum_to_1(log_weight: list[float], temperature: float) -> None:
    weight = normalize(torch.tensor([log_weight]), torch.tensor(temperature))
    assert torch.isfinite(weight).all()
    assert (weight >= 0).all()
    assert float(weight.sum()) == pytest.approx(1.0, abs=1e-6)


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=20), st.integers(-100, 100))
def test_adding_a_constant_to_all_log_weights_changes_nothing(log_weight: list[int], shift: int) -> None:
    row, temperature = torch.tensor([log_weight]).float(), torch.tensor(0.5)
    torch.testing.assert_close(normalize(row, temperature), normalize(row + shift, temperature), rtol=1e-4, atol=1e-7)


@given(rows, temperatures)
def test_effective_sample_size_and_entropy_stay_within_their_bounds(
    log_weight: list[float], temperature: float
) -> None:
    weight = normalize(torch.tensor([log_weight]), torch.tensor(temperature))
    assert 1 - 1e-5 <= float(effective_sample_size(weight)) <= len(log_weight) * (1 + 1e-5)
    assert -1e-6 <= float(entropy(weight)) <= math.log(len(log_weight)) + 1e-5


def test_effective_sample_size_is_the_number_of_particles_only_where_all_weigh_the_same() -> None:
    assert float(effective_sample_size(weights_of(1, 1, 1, 1))) == pytest.approx(4)
    assert float(effective_sample_size(weights_of(1, 1, 1, 1.2))) < 4
    assert float(effective_sample_size(weights_of(0, 0, 1, 0))) == pytest.approx(1)


def test_hot_weights_are_uniform_and_cold_ones_choose_the_best() -> None:
    log_weight = torch.tensor([[1.0, 3.0, 2.0]])
    torch.testing.assert_close(normalize(log_weight, torch.tensor(1e9)), torch.full((1, 3), 1 / 3))
    assert normalize(log_weight, torch.tensor(1e-8)).tolist() == [[0.0, 1.0, 0.0]]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=20).filter(any), st.floats(0, 1 - 2**-24, width=32))
def test_systematic_resampling_keeps_each_particle_as_often_as_its_weight_says_give_or_take_one(
    counts: list[int], uniform: float
) -> None:
    weight = weights_of(*counts)
    point = systematic(torch.tensor([[uniform]]), len(counts))
    drawn = resample(weight, point).flatten().bincount(minlength=len(counts))
    expected = weight.flatten() * len(counts)
    assert (drawn >= torch.floor(expected - 1e-4)).all()
    assert (drawn <= torch.ceil(expected + 1e-4)).all()
    assert (drawn[weight.flatten() == 0] == 0).all()


@pytest.mark.parametrize("num_particles", [2, 3, 7, 16, 64])
def test_systematic_resampling_of_equal_weights_changes_nothing(num_particles: int) -> None:
    point = systematic(torch.tensor([[0.3]]), num_particles)
    assert resample(torch.full((1, num_particles), 1 / num_particles), point).flatten().tolist() == list(
        range(num_particles)
    )


@pytest.mark.parametrize("kind", ["systematic", "multinomial"])
def test_resampling_is_unbiased(kind: str) -> None:
    weight, repeats = weights_of(5, 1, 0, 3, 1, 2.5), 40_000
    generator = torch.Generator().manual_seed(0)
    if kind == "systematic":
        point = systematic(torch.rand(repeats, 1, generator=generator), 6)
    else:
        point = torch.rand(repeats, 6, generator=generator)
    drawn = resample(weight.expand(repeats, -1), point)
    offspring = torch.nn.functional.one_hot(drawn, 6).sum(1).double()
    error = (offspring.mean(0) - 6 * weight.flatten()).abs()
    assert (error <= 4 * offspring.std(0) / math.sqrt(repeats) + 1e-6).all()


def test_last_point_never_falls_beyond_the_last_particle() -> None:
    point = systematic(torch.tensor([[1 - 2**-24]]), 16)
    assert float(point.max()) < 1
    assert int(resample(weights_of(1, *[0] * 15), point).max()) == 0
