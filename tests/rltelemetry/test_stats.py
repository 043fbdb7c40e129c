"""The counts and the line at the end of a run."""

from rltelemetry.stats import Stats


def test_emitted_is_processed_and_dropped() -> None:
    assert Stats(events_processed=7, events_dropped={"full": 2, "late": 1}).events_emitted == 10


def test_line_has_what_happened_and_why() -> None:
    stats = Stats(
        events_processed=10, events_dropped={"full": 2, "error": 0}, points_extracted=20, points_sent=15, points_kept=3,
        points_dropped={"poison": 1, "infinite": 1},
    )  # fmt: skip
    assert str(stats) == (
        "events: 10 processed, 2 (full 2) dropped; points: 15 sent, 3 kept, 2 (infinite 1, poison 1) dropped"
    )


def test_spans_are_shown_if_there_were_any() -> None:
    assert "spans" not in str(Stats())
    assert str(Stats(spans_sent=3, spans_kept=1)).endswith("; spans: 3 sent, 1 kept, 0 dropped")
