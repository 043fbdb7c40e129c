"""Telemetry for the scripts that people already have: each adapter has the face of another library.

`SummaryWriter` is TensorBoard's, `LogHandler` the standard library's; neither needs anything that is not installed.
`compat.sb3` (Stable-Baselines3) and `compat.gymnasium` import their library, and are imported by their own names.
"""

from rltelemetry.compat.stdlib import LogHandler
from rltelemetry.compat.tensorboard import SummaryWriter

__all__ = ["LogHandler", "SummaryWriter"]
