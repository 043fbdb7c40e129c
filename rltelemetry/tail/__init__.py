"""`rltelemetry tail`: a run in the terminal, live, from its spool on this disk, from MLflow, or from both."""

from rltelemetry.tail.board import Board, Series
from rltelemetry.tail.frame import Size, frame, sparkline
from rltelemetry.tail.screen import Screen, tail
from rltelemetry.tail.target import Target, find_target
from rltelemetry.tail.watch import Watch

__all__ = ["Board", "Screen", "Series", "Size", "Target", "Watch", "find_target", "frame", "sparkline", "tail"]
