import pytest

from trainers.progress import PERIOD_S, ProgressLine, duration_text


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def line(first_update: int = 0, timesteps: int = 0) -> tuple[ProgressLine, list[str], Clock]:
    shown: list[str] = []
    clock = Clock()
    return ProgressLine(shown.append, 80, first_update, timesteps, clock), shown, clock


def test_line_says_how_far_how_fast_how_long_and_how_good() -> None:
    progress, shown, clock = line()
    clock.now += 4.0
    progress.advance(20, 40_960, 123.456)
    assert shown == ["[#####...............]  25%  update 20/80  10,240 steps/s  left 0:12  return 123.46"]


def test_resumed_run_is_judged_by_what_this_process_has_done() -> None:
    progress, shown, clock = line(first_update=60, timesteps=100_000)
    clock.now += 2.0
    progress.advance(70, 102_000, None)
    assert shown == ["[#################...]  88%  update 70/80  1,000 steps/s  left 0:02  return -"]


def test_line_changes_no_more_often_than_it_can_be_read() -> None:
    progress, shown, clock = line()
    for update in range(1, 11):
        clock.now += PERIOD_S / 2
        progress.advance(update, 0, None)
    assert ["update" in text for text in shown] == [True] * 5


def test_line_goes_with_the_run() -> None:
    progress, shown, _ = line()
    progress.close()
    assert shown == [""]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (5.4, "0:05"), (59.6, "1:00"), (754, "12:34"), (12_345, "3:25:45")]
)
def test_durations_are_read_as_on_a_clock(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
