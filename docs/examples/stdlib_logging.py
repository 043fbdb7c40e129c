"""Standard logging with handlers of its own: one more handler, and the numbers in `extra` are in MLflow.

python docs/examples/stdlib_logging.py
"""

import logging

import rltelemetry
from rltelemetry.compat import LogHandler

logging.basicConfig(level=logging.INFO)  # the program's own handler goes on showing the records
logging.getLogger().addHandler(LogHandler())
log = logging.getLogger("my_trainer")

with rltelemetry.configure(service_name="stdlib-logging", run_name="logging"):
    for update in range(10):
        numbers = {"category": "TRAINER", "critic_loss": 1 / (1 + update), "timesteps": 2048 * update}
        log.info("update %d", update, extra=numbers)
    log.warning("the last update was number %d", update)
