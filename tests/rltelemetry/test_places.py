"""Where this user's files lie: one place for spools and claimed ports, by the XDG rule."""

from pathlib import Path

import pytest

from rltelemetry import Settings
from rltelemetry.errors import SettingsError
from rltelemetry.places import state_directory
from rltelemetry.ports import claimed_port

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


def test_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(SettingsError, match="Set RLTELEMETRY_SPOOL_DIR"):
        state_directory()
    with claimed_port(HOST, 20_000, 20_100) as claim:
        assert claim.note is None
