"""A sleep that somebody else can end."""

import asyncio

import pytest

from rltelemetry.sinks.mlflow.alarm import Alarm
from rltelemetry.testing import FakeClock


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_sleep_ends_with_its_time() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        sleeping = asyncio.create_task(Alarm(clock).sleep(5.0))
        await settle()
        clock.advance(4.9)
        await settle()
        assert not sleeping.done()
        clock.advance(0.2)
        await asyncio.wait_for(sleeping, 5.0)
        assert clock.sleepers == 0

    asyncio.run(scenario())


def test_ring_ends_the_sleep_at_once_and_only_one() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        alarm = Alarm(clock)
        sleeping = asyncio.create_task(alarm.sleep(1000.0))
        await settle()
        alarm.ring()
        alarm.ring()
        await asyncio.wait_for(sleeping, 5.0)
        await settle()
        assert clock.sleepers == 0
        again = asyncio.create_task(alarm.sleep(1000.0))
        await settle()
        assert not again.done()
        again.cancel()

    asyncio.run(scenario())


def test_ring_between_two_sleeps_is_not_lost() -> None:
    async def scenario() -> None:
        alarm = Alarm(FakeClock())
        alarm.ring()
        await asyncio.wait_for(alarm.sleep(1000.0), 5.0)

    asyncio.run(scenario())


def test_sleeper_that_is_cancelled_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        alarm = Alarm(clock)
        sleeping = asyncio.create_task(alarm.sleep(1000.0))
        await settle()
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        await settle()
        assert clock.sleepers == 0
        alarm.ring()
        await asyncio.wait_for(alarm.sleep(1000.0), 5.0)

    asyncio.run(scenario())
