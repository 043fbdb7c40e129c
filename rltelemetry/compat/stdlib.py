"""Standard `logging` through the pipeline, for programs whose logging has handlers of its own.

Where it has none, the pipeline takes the records of the root logger anyway; with this handler beside others, a record
becomes points, span event and trace as a structlog event does, and the other handlers go on showing it:

    logging.getLogger().addHandler(LogHandler())
    logging.getLogger("train").info("update", extra={"category": "TRAINER", "critic_loss": 0.5, "timesteps": 100})
"""

import logging

from rltelemetry.channels import channel
from rltelemetry.stdlib import StdlibHandler

__all__ = ["LogHandler"]


class LogHandler(StdlibHandler):
    """A handler for any logger; the fields are what `extra` holds.

    Args:
        console: whether our console shows the records, too.
    """

    def __init__(self, console: bool = False) -> None:
        super().__init__(lambda name: channel(name).threshold, console)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record over, unless the pipeline's own handler will; never raises."""
        if not _reaches_pipeline(record):
            super().emit(record)


def _reaches_pipeline(record: logging.LogRecord) -> bool:
    """Whether the record comes by the pipeline's handler on its way up to the root logger."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(type(handler) is StdlibHandler for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
