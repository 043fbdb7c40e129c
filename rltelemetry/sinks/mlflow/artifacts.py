"""The stream of artifacts, in order: files, texts that become files, and removals; it holds up nobody else.

A file is read when it is sent. One that is gone by then (an old checkpoint, after an outage) was given up by whoever
made it, and is passed over.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rltelemetry.redact import clean_text
from rltelemetry.sinks.mlflow.outcome import Outcome, Verdict
from rltelemetry.sinks.mlflow.rows import Row
from rltelemetry.sinks.mlflow.way import Way

__all__ = ["ArtifactStream"]

MIN_UPLOAD_S: Final = 30.0
"""Longest wait for a piece of a file: the server may be writing it to somewhere slow."""

SERVER_ERROR: Final = 500
MOST_SERVER_ERRORS: Final = 5
"""In a row, of one artifact; MLflow says so for ever of a name that cannot be stored (a file stands where it needs a
folder), and some stores of a file that is not there."""

FAILING: Final = "failing_artifact"
"""Where the spool remembers an artifact and its errors so far: a drain leaves before there are enough of them."""


class ArtifactStream:
    """Uploads and removes, oldest first.

    Args:
        way: what it works with.
    """

    def __init__(self, way: Way) -> None:
        self.interval_s = 0.0
        self.has_more = True
        self._spool, self._client, self._run, self._notices, self.breaker, self.patience = way

    async def send(self) -> Outcome | None:
        """Send one artifact; None if there is none, or no run yet."""
        row = self._spool.head("artifact") if self._run.run_id is not None else None
        if row is None:
            return None
        _, artifact = json.loads(row.body)
        if "path" in artifact and _is_gone(artifact["path"]):
            return self._pass_over(row, artifact["path"])
        outcome = self._judge(artifact, await self._perform(artifact))
        if outcome.is_delivered:
            self._spool.ack(row)
            self.patience.reset()
        elif outcome.verdict is Verdict.POISON:
            self._spool.bury(row, outcome.cause)
            self._notices.warn("refused artifact", f"MLflow refuses an artifact for good: {outcome.cause}")
            return Outcome(Verdict.DELIVERED)
        return outcome

    async def _perform(self, artifact: Mapping[str, Any]) -> Outcome:
        root = self._run.artifact_root
        if root is None:
            return Outcome(Verdict.POISON, cause="this server keeps no artifacts")
        target, timeout_s = f"{root}/{artifact['name']}", max(self.patience.left_s(), MIN_UPLOAD_S)
        if "path" in artifact:
            return await self._client.put_artifact(target, Path(artifact["path"]), timeout_s)
        if "text" in artifact:
            return await self._client.put_text(target, artifact["text"], timeout_s)
        return await self._client.delete_artifact(target, timeout_s)

    def _judge(self, artifact: Mapping[str, Any], outcome: Outcome) -> Outcome:
        """Tell what is final from a hiccup; a file that is not there, or must stay, is removed as far as that goes."""
        if self._has_failed_for_good(artifact["name"], outcome) or _is_switched_off(outcome):
            outcome = replace(outcome, verdict=Verdict.POISON)
        is_removal = artifact.keys().isdisjoint({"path", "text"})
        is_refused = outcome.status in {405, 501} or (outcome.verdict is Verdict.POISON and outcome.status > 0)
        return Outcome(Verdict.DELIVERED) if is_removal and (outcome.is_missing or is_refused) else outcome

    def _has_failed_for_good(self, name: str, outcome: Outcome) -> bool:
        """Count the server's errors in a row of one artifact, those of earlier processes included."""
        failing, num_before = self._spool.get(FAILING) or ("", 0)
        is_error = outcome.status == SERVER_ERROR
        num_errors = 1 + (num_before if failing == name else 0) if is_error else 0
        is_final = num_errors >= MOST_SERVER_ERRORS
        if is_error or num_before:
            self._spool.put(FAILING, [name, 0 if is_final else num_errors])
        return is_final

    def _pass_over(self, row: Row, path: str) -> Outcome:
        self._spool.ack(row)
        self._notices.warn("artifact gone", f"an artifact is not uploaded, since its file is gone: {clean_text(path)}")
        return Outcome(Verdict.DELIVERED)


def _is_gone(path: str) -> bool:
    """Whether nothing is there; any other trouble with a path is left to the upload, which has words for it."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _is_switched_off(outcome: Outcome) -> bool:
    """Whether the server says, with a status that looks transient, that it never takes artifacts."""
    return outcome.status == 503 and "--no-serve-artifacts" in outcome.cause
