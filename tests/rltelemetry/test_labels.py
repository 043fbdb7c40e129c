"""Labels: defaults, overrides, title case, and override strings that cannot be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.labels import MAX_LABEL_LENGTH, Labels, parse_labels


def test_pairs_are_read() -> None:
    overrides, problems = parse_labels("global_grad_norm=Grad Norm, steps_per_second = SPS")
    assert overrides == {"global_grad_norm": "Grad Norm", "steps_per_second": "SPS"}
    assert problems == []


def test_only_the_first_equals_sign_separates() -> None:
    assert parse_labels("a=b=c") == ({"a": "b=c"}, [])


def test_later_duplicates_win_and_empty_pairs_are_skipped() -> None:
    assert parse_labels("a=1,,a=2, ,") == ({"a": "2"}, [])


@pytest.mark.parametrize("pair", ["=Label", "key", "key=", "=", "\x1b"])
def test_a_malformed_pair_is_named_with_its_position_and_the_rest_applies(pair: str) -> None:
    overrides, problems = parse_labels(f"a=A,{pair},b=B")
    assert overrides == {"a": "A", "b": "B"}
    assert len(problems) == 1
    assert f"pair 2: got {pair!a}; expected key=Label" in problems[0]


def test_many_malformed_pairs_make_a_bounded_report() -> None:
    _, problems = parse_labels("=," * 500_000)
    assert len(problems) == 21
    assert "499980 more" in problems[-1]


@given(st.text())
def test_no_text_raises_and_every_label_is_printable(text: str) -> None:
    overrides, _ = parse_labels(text)
    labels = Labels({**overrides, text: text})
    for key in [text, *overrides]:
        assert labels.label(key).isprintable()
        assert labels.label(key)


def test_the_contract_gives_defaults() -> None:
    assert Labels().label("explained_variance") == "Explained Variance"
    assert Labels().label("steps_per_second") == "SPS"


def test_overrides_win_over_defaults() -> None:
    assert Labels({"steps_per_second": "Steps/s"}).label("steps_per_second") == "Steps/s"
    assert Labels().label("steps_per_second") == "SPS"


@pytest.mark.parametrize(
    ("key", "label"),
    [
        ("some_key", "Some Key"),
        ("_private__key_", "Private Key"),
        ("SPS2x_rate", "SPS2x Rate"),
        ("", "?"),
        ("_", "?"),
    ],
)
def test_unknown_keys_are_title_cased(key: str, label: str) -> None:
    assert Labels().label(key) == label


def test_long_labels_are_cut() -> None:
    assert len(Labels({"a": "x" * 2**20}).label("a")) == MAX_LABEL_LENGTH


def test_the_cache_does_not_grow_with_the_keys() -> None:
    labels = Labels()
    texts = [labels.label(f"key_{number}") for number in range(10_000)]
    assert texts[-1] == "Key 9999"
    assert len(labels._cache) <= 4096
