"""Findings as text for eyes, and as JSON for programs."""

from collections.abc import Sequence
from typing import Any, Final

from rltelemetry.doctor.findings import CHECKS, Finding, Level
from rltelemetry.redact import clean_text

__all__ = ["as_json", "as_line", "conclusion", "skipped_lines"]

WIDTH: Final = max(map(len, CHECKS))
LABELS: Final = {Level.OK: "ok", Level.WARNING: "warning", Level.FAILED: "FAILED", Level.SKIPPED: "skipped"}


def as_line(finding: Finding) -> str:
    """Return one line, and the remedy under it."""
    line = f"{LABELS[finding.level]:<7}  {finding.check:<{WIDTH}}  {clean_text(finding.seen)}"
    return f"{line}\n{'':<{WIDTH + 9}}  -> {clean_text(finding.remedy)}" if finding.remedy else line


def skipped_lines(findings: Sequence[Finding]) -> list[str]:
    """Return the checks that were not made, together where the reason is the same."""
    by_reason: dict[str, list[str]] = {}
    for finding in findings:
        if finding.level is Level.SKIPPED:
            by_reason.setdefault(finding.seen, []).append(finding.check)
    return [
        f"{LABELS[Level.SKIPPED]:<7}  {', '.join(checks)}: {clean_text(reason)}" for reason, checks in by_reason.items()
    ]


def conclusion(findings: Sequence[Finding]) -> str:
    """Return the last line: what failed."""
    bad = [finding.check for finding in findings if finding.is_failure]
    if bad:
        return f"{len(bad)} failed: {', '.join(bad)}"
    num_warnings = sum(finding.level is Level.WARNING for finding in findings)
    return (
        f"all is well, but for {num_warnings} warning{'s' if num_warnings > 1 else ''}"
        if num_warnings
        else "all is well"
    )


def as_json(uri: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return everything as an object that JSON can hold."""
    return {
        "tracking_uri": uri,
        "ok": not any(finding.is_failure for finding in findings),
        "failed": [finding.check for finding in findings if finding.is_failure],
        "checks": [
            {
                "check": finding.check,
                "meaning": CHECKS[finding.check],
                "level": finding.level.value,
                "seen": clean_text(finding.seen),
                "remedy": clean_text(finding.remedy),
            }
            for finding in findings
        ],
    }
