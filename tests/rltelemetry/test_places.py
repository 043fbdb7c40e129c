"""Where this user's files lie: one place for spools and claimed ports, by the XDG rule."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

import rltelemetry
from rltelemetry import Settings
from rltelemetry.errors import SettingsError
from rltelemetry.places import state_directory
from rltelemetry.ports import claimed_port
from rltelemetry.testing import FakeMlflow

HOST = "127.0.0.1"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("state", [None, "", "relative/state", "~/state"])
def test_what_is_no_absolute_path_gives_way_to_the_place_under_the_home_directory(
    state: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    if state is not None:
        monkeypatch.setenv("XDG_STATE_HOME", state)
    assert state_directory() == Settings().spools == home / ".local" / "state" / "rltelemetry"
    with claimed_port(HOST, 20_000, 20_100) as claim:
        assert claim.note is not None
        assert claim.note.parent == home / ".local" / "state" / "rltelemetry" / "ports"


def test_absolute_path_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    assert state_directory() == Settings().spools == home / "state" / "rltelemetry"
    assert Settings(spool_dir=home / "spools").spools == home / "spools"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place that a user without a home has in `tmp_path`, which holds the temporary files."""

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"rltelemetry-{os.getuid()}"


def test_user_without_a_home_has_a_place_of_his_own_beside_the_temporary_files(
    homeless: Path, fake_mlflow: FakeMlflow, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {"console": "json", "system_metrics": False, "traces": False}
    with rltelemetry.configure(tracking_uri=fake_mlflow.uri, **fields) as telemetry:
        assert telemetry.commit(10.0)
    assert state_directory() == homeless
    assert homeless.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr().err.count(f"unsent data waits in {homeless}") == 1


def test_place_that_others_can_write_is_not_taken_and_the_user_is_told_what_to_set(homeless: Path) -> None:
    homeless.mkdir()
    homeless.chmod(0o777)
    with pytest.raises(SettingsError, match="Set RLTELEMETRY_SPOOL_DIR"):
        state_directory()
    with claimed_port(HOST, 20_000, 20_100) as claim:
        assert claim.note is None
