"""A training as its user starts it, and what it has logged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["ROOT", "events_of"]

ROOT: Final = Path(__file__).resolve().parent.parent

UNSEEN: Final = ("--no-mlflow", "--logging.console", "json", "--checkpointing.no-save")


def events_of(words: list[str]) -> list[dict[str, Any]]:
    """Run `ppo` or `spo` with these flags, sending and saving nothing; returns its events.

    Raises:
        SystemExit: it has failed; with the end of what it said.
    """
    command = [str(Path(sys.executable).parent / words[0]), *words[1:], *UNSEEN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]
