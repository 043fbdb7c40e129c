"""RUST_LOG directives: what applies, what wins, what is refused by name."""

import logging
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltelemetry.filtering import BACKEND_LOGGERS, LEVELS, OFF, Filter


def parsed(text: str) -> Filter:
    log_filter, problems = Filter.parse(text)
    assert problems == []
    return log_filter


@pytest.mark.parametrize(("name", "number"), LEVELS.items())
def test_a_bare_level_is_the_threshold_of_every_logger(name: str, number: int) -> None:
    assert parsed(name).threshold("trainers.spo") == number
    assert parsed(f" {name.upper()} ").threshold("anything") == number


def test_off_is_above_every_level() -> None:
    assert parsed("off").threshold("trainers") > logging.CRITICAL


def test_the_longest_dotted_prefix_wins() -> None:
    log_filter = parsed("info,httpx=warning,trainers=error,trainers.spo=debug")
    assert log_filter.threshold("trainers.spo.search") == logging.DEBUG
    assert log_filter.threshold("trainers.spo") == logging.DEBUG
    assert log_filter.threshold("trainers.ppo") == logging.ERROR
    assert log_filter.threshold("httpx") == logging.WARNING
    assert log_filter.threshold("envs") == logging.INFO


def test_a_prefix_ends_at_a_dot() -> None:
    assert parsed("info,train=debug").threshold("trainers") == logging.INFO


def test_rust_paths_are_dotted_names() -> None:
    assert parsed("info,trainers::spo=debug").threshold("trainers.spo") == logging.DEBUG


def test_a_bare_name_is_heard_at_trace() -> None:
    assert parsed("info,trainers").threshold("trainers.ppo") == LEVELS["trace"]


def test_without_a_bare_level_other_loggers_are_off() -> None:
    assert parsed("httpx=debug").threshold("trainers") == OFF


def test_later_duplicates_win() -> None:
    log_filter = parsed("info,a=debug,warn,a=error")
    assert log_filter.threshold("a") == logging.ERROR
    assert log_filter.threshold("b") == logging.WARNING


def test_spaces_and_empty_directives_are_harmless() -> None:
    assert parsed(" info , ,httpx = Warning,") == parsed("info,httpx=warning")


@pytest.mark.parametrize("text", ["", " , ", "=", "a=b=c"])
def test_without_a_usable_directive_info_applies(text: str) -> None:
    assert Filter.parse(text)[0].threshold("trainers") == logging.INFO


@pytest.mark.parametrize(
    "directive", ["a=loud", "=debug", "a=", "a=debug=info", "two words", "2", "[span{x=1}]=info", "a..b=info", "ä\n="]
)
def test_a_malformed_directive_is_named_with_its_position_and_the_rest_applies(directive: str) -> None:
    log_filter, problems = Filter.parse(f"warning,{directive},httpx=error")
    assert len(problems) == 1
    assert f"directive 2: got {directive!a}; expected" in problems[0]
    assert log_filter == parsed("warning,httpx=error")


def test_many_malformed_directives_make_a_bounded_report() -> None:
    _, problems = Filter.parse("=," * 500_000)
    assert len(problems) == 21
    assert "499980 more" in problems[-1]


@pytest.mark.parametrize("text", ["x" * 2**20, "a." * 2**19, "a=" * 2**19, "a=debug," * 2**17, "\x00," * 2**19])
def test_a_megabyte_of_anything_is_survived(text: str) -> None:
    log_filter, problems = Filter.parse(text)
    assert isinstance(log_filter.threshold("trainers" + "." * 10_000), int)
    assert all(len(problem) < 300 for problem in problems)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    log_filter, _ = Filter.parse(text)
    log_filter.threshold(text)
    Filter.from_level(text, False)


def test_a_problem_line_carries_no_control_character() -> None:
    _, problems = Filter.parse("\x1b[31m=\n")
    assert problems[0].isprintable()


def test_chatty_libraries_are_heard_from_error_on() -> None:
    log_filter, problems = Filter.from_level("debug", backend_logs_visible=False)
    assert problems == []
    assert {log_filter.threshold(name) for name in BACKEND_LOGGERS} == {logging.ERROR}
    assert log_filter.threshold("torch._inductor.graph") == logging.ERROR
    assert log_filter.threshold("trainers") == logging.DEBUG


def test_chatty_libraries_never_get_louder_than_the_level() -> None:
    log_filter, _ = Filter.from_level("off", backend_logs_visible=False)
    assert log_filter.threshold("httpx") == OFF


def test_chatty_libraries_are_as_others_when_visible() -> None:
    log_filter, _ = Filter.from_level("Info", backend_logs_visible=True)
    assert log_filter.threshold("httpx") == log_filter.threshold("trainers") == logging.INFO


def test_an_unknown_level_is_named_and_info_applies() -> None:
    log_filter, problems = Filter.from_level("loud", backend_logs_visible=True)
    assert log_filter.threshold("x") == logging.INFO
    assert "got 'loud'; expected one of trace, debug" in problems[0]


def test_directives_leave_no_backend_default_behind() -> None:
    assert parsed("info").threshold("httpx") == logging.INFO


def test_a_hidden_logger_is_described() -> None:
    assert "'trainers' is hidden: it is off" in (parsed("httpx=info").describe_hidden("trainers") or "")
    assert "INFO" in (parsed("warn").describe_hidden("trainers") or "")
    assert "from WARN" in (parsed("warn").describe_hidden("trainers") or "")


def test_a_heard_logger_is_not_described() -> None:
    assert parsed("warn,trainers=info").describe_hidden("trainers") is None


def test_filters_are_values() -> None:
    log_filter = parsed("info,a=debug")
    assert pickle.loads(pickle.dumps(log_filter)) == log_filter
    assert hash(log_filter) == hash(parsed("info,a=debug"))
