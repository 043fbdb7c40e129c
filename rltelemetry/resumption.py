"""What a run has already: asked once by a process that continues it, so that no step is logged twice.

The server knows what it was sent, the spools on this machine what they have taken in, sent or not. A server that does
not answer is not waited for beyond a bound: the spools know as much, where the run was on this machine.
"""

import asyncio

from rltelemetry.settings import Settings
from rltelemetry.sinks.mlflow import MlflowClient, make_loop, read_run
from rltelemetry.sinks.mlflow.history import last_steps, spooled_steps

__all__ = ["last_steps", "stored_steps"]


def stored_steps(
    settings: Settings, run_id: str | None, client_uuid: str | None = None, timeout_s: float = 3.0
) -> dict[str, int]:
    """Ask the spools and the server how far a run has come.

    Args:
        settings: where they are.
        run_id: the run; None if its id was never known.
        client_uuid: the run by its client's own name.
        timeout_s: longest wait for the server.

    Returns:
        The last step of each category (trainer, actor, evaluator, misc, system) that the run has.
    """
    spooled = spooled_steps(settings.spools, run_id, client_uuid)
    if run_id is None or not settings.metrics:
        return spooled
    loop = make_loop()
    try:
        sent = loop.run_until_complete(_ask(settings, run_id, timeout_s))
    finally:
        loop.close()
    return last_steps([*spooled.items(), *sent.items()])


async def _ask(settings: Settings, run_id: str, timeout_s: float) -> dict[str, int]:
    client = MlflowClient(settings)
    try:
        async with asyncio.timeout(timeout_s):
            outcome = await client.get_run(run_id, timeout_s)
        run = read_run(outcome.answer)
        return last_steps((point.key, point.step) for point in run.latest) if run else {}
    except TimeoutError:
        return {}
    finally:
        await client.close()
