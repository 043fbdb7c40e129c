"""`rltelemetry doctor`: every step of the way from this machine to a stored point, what was seen, and the remedy."""

from rltelemetry.doctor.examination import Examination
from rltelemetry.doctor.findings import CHECKS, Finding, Level
from rltelemetry.doctor.render import as_json, as_line, conclusion, skipped_lines

__all__ = ["CHECKS", "Examination", "Finding", "Level", "as_json", "as_line", "conclusion", "skipped_lines"]
