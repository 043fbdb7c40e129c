"""Perfect models of tasks, for search: batched, pure, on the device, each with a parity test against envpool."""

from trainers.simulators.protocol import Model, Outcome
from trainers.simulators.registry import SIMULATED_TASKS, make_simulator
from trainers.simulators.simulator import Simulator, State, Transition

__all__ = ["SIMULATED_TASKS", "Model", "Outcome", "Simulator", "State", "Transition", "make_simulator"]
