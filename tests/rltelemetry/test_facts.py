"""Parameters and tags: flattened, masked, in MLflow's alphabet, whatever a program gives."""

from collections import UserDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.facts import MAX_FACTS, read_artifact_name, read_facts
from rltelemetry.testing import MlflowServer, send


def test_nested_names_are_joined_by_dots() -> None:
    assert read_facts({"a": {"b": {"c": 1}}, "d": 0.5, "e": {}}).texts == {"a.b.c": "1", "d": "0.5", "e": "{}"}


@pytest.mark.parametrize(
    "facts",
    [
        {"password": "S3CR3T"},
        {"db": {"pass": "S3CR3T"}},
        {"url": "postgres://ann:S3CR3T@host/x"},
        {"args": "--token=S3CR3T"},
        {"pair": ("Authorization", "Bearer S3CR3T-S3CR3T")},
        {"argv": ["run", "--password", "S3CR3T"]},
        {"rows": [{"api_key": "S3CR3T"}]},
        {"private_key_pem": "S3CR3T"},
        {"token_value": "S3CR3T"},
        {"api_keys": {"wandb": "S3CR3T"}},
        {"tokens": {"wandb": {"prod": "S3CR3T"}}},
        {"private_keys": ["S3CR3T"]},
        {"rows": [{"password": ["S3CR3T"]}]},
        {b"token": {b"prod": b"S3CR3T"}},
    ],
    ids=repr,
)
def test_no_secret_gets_through(facts: dict[str, Any]) -> None:
    assert "S3CR3T" not in repr(read_facts(facts))


def test_what_is_nested_under_a_secret_name_is_masked_and_measures_stay() -> None:
    given = {"tokens": {"wandb": "S3CR3T", "prompt": 512}, "loss": {"per_token": 0.5}}
    assert read_facts(given).texts == {"tokens.wandb": "***", "tokens.prompt": "512", "loss.per_token": "0.5"}


def test_names_that_mlflow_refuses_are_made_acceptable_and_stay_apart() -> None:
    assert read_facts({"": 1, "sp@m": 2, "sp_m": 3, "a//b": 4}).texts == {
        "unnamed": "1",
        "sp_m": "2",
        "sp_m_": "3",
        "a/b": "4",
    }


class Hostile(dict[str, Any]):
    def items(self) -> Any:
        yield "good", 1
        raise RuntimeError("no more")


class Unnamable:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def recursive() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    return loop


@pytest.mark.parametrize(
    "given", [None, [1], 5, "text", Hostile(a=1), recursive(), {Unnamable(): 1}, {"a": 10**5000}, UserDict(a=1)]
)
def test_whatever_is_given_nothing_is_raised(given: Any) -> None:
    facts = read_facts(given)
    assert all(type(key) is str and type(value) is str for key, value in facts.texts.items())


@pytest.mark.parametrize("given", [None, [1], Hostile(a=1)])
def test_what_cannot_be_read_is_said(given: Any) -> None:
    assert read_facts(given).problem


def test_what_could_be_read_before_a_failure_is_kept() -> None:
    assert read_facts(Hostile()).texts == {"good": "1"}


def test_too_many_are_cut_and_said() -> None:
    facts = read_facts({str(index): index for index in range(MAX_FACTS + 1)})
    assert len(facts.texts) == MAX_FACTS
    assert str(MAX_FACTS) in facts.problem


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.dictionaries(st.text(), st.text())))
def test_every_mapping_becomes_clean_texts(facts: dict[str, Any]) -> None:
    texts = read_facts(facts).texts
    assert all(key and key.isprintable() for key in texts)


@pytest.mark.parametrize(
    "name", ["a", "plots/returns.svg", "...", ".hidden", "a b", "a..b/..c", "100%", "a%2Fb", "v?1"]
)
def test_artifact_name_is_a_path_below_the_run(name: str) -> None:
    assert read_artifact_name(name) == (name, "")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            None,
            ".",
            "..",
            "/",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/./b",
            "a//b",
            "a/",
            "\\x",
            "..\\x",
            "a\\..\\b",
        ),
        *("%2e", "%2e%2e/x", "%2F", "a%2f%2e%2e", "%25252e", "?", "#", ";", ".?", ".;#", "a/..?", " ", "\n"),
    ],
)
def test_artifact_name_that_may_lead_elsewhere_is_refused(name: Any) -> None:
    assert "expected a path below the run's artifacts" in read_artifact_name(name).problem


def test_artifact_without_a_name_takes_the_other_one() -> None:
    assert read_artifact_name(None, "a.txt") == read_artifact_name("", "a.txt") == ("a.txt", "")
    assert read_artifact_name(None, "..").problem


def test_mlflow_takes_every_name_that_comes_out(any_mlflow: MlflowServer) -> None:
    run_id = any_mlflow.create_run()
    names = ["", ".", "..", "/", "a//b", "/a", "a/", "é日本", "a:b", "a b", "%#\"'", "x" * 300, "\n", "a.b-c_d"]
    params = [{"key": key, "value": value} for key, value in read_facts(dict.fromkeys(names, 1)).texts.items()]
    body = {"run_id": run_id, "params": params, "tags": params}
    assert send(any_mlflow.uri, "POST", "/api/2.0/mlflow/runs/log-batch", body).status == 200
