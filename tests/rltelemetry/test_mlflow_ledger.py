"""The account: extracted = sent + kept + dropped, also while it changes."""

import threading

from rltelemetry.sinks.mlflow.ledger import Counts, Ledger


def test_every_movement_keeps_the_sum() -> None:
    ledger = Ledger()
    ledger.extract(10)
    ledger.refuse("infinite")
    ledger.send(4)
    ledger.drop("spool_full", 3)
    ledger.drop("poison", 0)
    assert ledger.kept == 3
    assert ledger.counts() == Counts(extracted=11, sent=4, kept=3, dropped={"infinite": 1, "spool_full": 3})
    assert ledger.dropped("spool_full") == 3
    assert ledger.dropped("nothing") == 0


def test_counts_that_were_read_do_not_change() -> None:
    ledger = Ledger()
    ledger.refuse("infinite")
    before = ledger.counts()
    ledger.refuse("infinite")
    assert before.dropped == {"infinite": 1}


def test_no_reader_sees_half_a_movement() -> None:
    ledger = Ledger()
    is_over = threading.Event()

    def move() -> None:
        while not is_over.is_set():
            ledger.extract(3)
            ledger.send(1)
            ledger.drop("poison", 1)

    writer = threading.Thread(target=move)
    writer.start()
    try:
        for _ in range(20_000):
            counts = ledger.counts()
            assert counts.extracted == counts.sent + counts.kept + sum(counts.dropped.values())
    finally:
        is_over.set()
        writer.join()
