import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainers.checkpoint import CheckpointFolder, newest_good, read_text
from trainers.errors import CheckpointError

CONTENT = random.Random(1).randbytes(5000)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[CheckpointFolder]:
    opened = CheckpointFolder(tmp_path / "run", keep=3)
    yield opened
    opened.close()


def names(folder: CheckpointFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {"lock", "latest"}


def found(path: Path) -> int:
    return newest_good(path, pytest.fail).update


def test_saved_bytes_come_back(folder: CheckpointFolder) -> None:
    path = folder.save(12, CONTENT)
    newest = newest_good(folder.path, pytest.fail)
    assert (newest.update, newest.path, newest.content) == (12, path, CONTENT)


def test_files_are_their_owners_only(folder: CheckpointFolder) -> None:
    folder.save(1, CONTENT)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}


def test_manifest_is_what_sha256sum_reads(folder: CheckpointFolder) -> None:
    folder.save(7, CONTENT)
    command = ["sha256sum", "--check", "--strict", "update-00000007.sha256"]
    assert subprocess.run(command, cwd=folder.path, capture_output=True, check=False).returncode == 0


def test_last_few_are_kept_and_the_newest_is_named(folder: CheckpointFolder) -> None:
    for update in range(1, 6):
        folder.save(update, CONTENT)
    kept = {f"update-0000000{update}{end}" for update in (3, 4, 5) for end in (".pt", ".sha256")}
    assert names(folder) == kept
    assert (folder.path / "latest").read_text() == "update-00000005.pt\n"


def test_other_files_are_left_alone(folder: CheckpointFolder) -> None:
    mine = ["notes.txt", "update-1.pt", "update-00000001.pt.bak", "xupdate-00000001.pt", "update-00000001.damaged"]
    for name in mine:
        (folder.path / name).write_text("mine")
    for update in range(2, 9):
        folder.save(update, CONTENT)
    assert set(mine) <= names(folder)


def test_checkpoint_without_a_manifest_does_not_exist(folder: CheckpointFolder) -> None:
    folder.save(1, CONTENT)
    folder.save(2, CONTENT)
    (folder.path / "update-00000002.sha256").unlink()
    assert found(folder.path) == 1


def damaged(folder: CheckpointFolder, change: bytes, name: str = "update-00000002.pt") -> tuple[int, list[str]]:
    """What is found, and said, when a file of the newest checkpoint holds something else."""
    (folder.path / name).write_bytes(change)
    warnings: list[str] = []
    return newest_good(folder.path, warnings.append).update, warnings


@pytest.mark.parametrize("name", ["update-00000002.pt", "update-00000002.sha256"])
def test_every_flipped_bit_is_detected_and_the_checkpoint_before_is_used(folder: CheckpointFolder, name: str) -> None:
    folder.save(1, CONTENT)
    folder.save(2, CONTENT)
    good = (folder.path / name).read_bytes()
    choice = random.Random(0)
    for _ in range(150):
        flipped = bytearray(good)
        flipped[choice.randrange(len(good))] ^= 1 << choice.randrange(8)
        update, warnings = damaged(folder, flipped, name)
        assert update == 1
        assert len(warnings) == 1
        assert "update-00000002.pt (its digest is wrong) cannot be used; update-00000001.pt" in warnings[0]


def test_every_truncation_is_detected(folder: CheckpointFolder) -> None:
    folder.save(1, CONTENT)
    folder.save(2, CONTENT)
    lengths = random.Random(0).sample(range(len(CONTENT)), 150)
    assert {damaged(folder, CONTENT[:length])[0] for length in lengths} == {1}


def test_several_damaged_ones_give_one_warning(folder: CheckpointFolder) -> None:
    for update in (1, 2, 3):
        folder.save(update, CONTENT)
    (folder.path / "update-00000003.pt").write_bytes(b"")
    update, warnings = damaged(folder, b"")
    assert (update, len(warnings)) == (1, 1)


def test_nothing_whole_is_an_error_that_says_why(folder: CheckpointFolder) -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint\. Give a folder that a run has saved to"):
        newest_good(folder.path, pytest.fail)
    folder.save(1, CONTENT)
    (folder.path / "update-00000001.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"none of update-00000001.pt \(its digest is wrong\)") as caught:
        newest_good(folder.path, pytest.fail)
    assert caught.value.exit_code == 2


def test_absent_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        newest_good(tmp_path / "nowhere", pytest.fail)


def test_one_file_can_be_named(folder: CheckpointFolder) -> None:
    for update in (1, 2, 3):
        folder.save(update, CONTENT)
    assert found(folder.path / "update-00000002.pt") == 2
    with pytest.raises(CheckpointError):
        found(folder.path / "update-00000009.pt")


def test_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint(folder: CheckpointFolder) -> None:
    folder.save(1, CONTENT)
    choice = random.Random(3)
    newest = 1
    for _ in range(50):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            for update in range(newest + 1, newest + 1_000_000):
                folder.save(update, CONTENT * 40)
                os.write(writer, b".")
        time.sleep(choice.uniform(0.0, 0.02))  # the moment is the test
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(writer)
        with open(reader, "rb") as said:  # noqa: PTH123 - a descriptor
            num_saved = len(said.read())
        assert newest + num_saved <= found(folder.path) <= newest + num_saved + 1
        newest = found(folder.path)


def test_leftovers_of_a_killed_save_go_with_the_next_run(tmp_path: Path) -> None:
    (tmp_path / ".update-00000001.pt.123.new").write_bytes(b"half")
    (tmp_path / ".mine.new").write_bytes(b"whole")
    CheckpointFolder(tmp_path, keep=1).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.new", "lock"]


def test_save_that_fails_midway_leaves_what_was_there(folder: CheckpointFolder) -> None:
    folder.save(1, CONTENT)
    before = names(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.save(2, CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == before
    assert found(folder.path) == 1
    folder.save(2, CONTENT)
    assert found(folder.path) == 2


FULL_DISK = """
import sys
from pathlib import Path
from trainers.checkpoint import CheckpointFolder, newest_good
folder = CheckpointFolder(Path(sys.argv[1]), keep=2)
folder.save(1, bytes(300_000))
try:
    folder.save(2, bytes(900_000))
except OSError as error:
    print(error.strerror)
print(newest_good(folder.path, print).update, sorted(path.name for path in folder.path.iterdir()))
folder.save(3, bytes(300_000))
print(newest_good(folder.path, print).update)
"""


def test_full_disk_keeps_the_old_checkpoint_and_takes_the_next_that_fits(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=1m none {tmp_path} && exec {sys.executable} -c "$PROGRAM" {tmp_path}/run'
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount],
        env={**os.environ, "PROGRAM": FULL_DISK}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "unshare" in ended.stderr or "mount" in ended.stderr:
        pytest.skip(f"no private mounts here: {ended.stderr.strip()}")
    assert ended.stdout.splitlines() == [
        "No space left on device",
        "1 ['latest', 'lock', 'update-00000001.pt', 'update-00000001.sha256']",
        "3",
    ]


# --- tricks with paths


def test_link_in_the_place_of_the_temporary_file_is_not_followed(folder: CheckpointFolder, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    (folder.path / f".update-00000001.pt.{os.getpid()}.new").symlink_to(target)
    with pytest.raises(FileExistsError):
        folder.save(1, CONTENT)
    assert target.read_text() == "precious"


def test_link_in_the_place_of_a_checkpoint_is_replaced_and_never_read(folder: CheckpointFolder, tmp_path: Path) -> None:
    folder.save(1, CONTENT)
    folder.save(2, CONTENT)
    elsewhere = tmp_path / "elsewhere.pt"
    (folder.path / "update-00000002.pt").rename(elsewhere)
    (folder.path / "update-00000002.pt").symlink_to(elsewhere)
    warnings: list[str] = []
    assert newest_good(folder.path, warnings.append).update == 1
    assert "symbolic links" in warnings[0]
    folder.save(2, b"new")
    assert elsewhere.read_bytes() == CONTENT
    assert newest_good(folder.path, pytest.fail).content == b"new"


def test_pipe_in_the_place_of_a_checkpoint_holds_nobody_up(folder: CheckpointFolder) -> None:
    folder.save(1, CONTENT)
    os.mkfifo(folder.path / "update-00000002.pt")
    (folder.path / "update-00000002.sha256").write_text("")
    warnings: list[str] = []
    assert newest_good(folder.path, warnings.append).update == 1
    assert "no plain file" in warnings[0]


def test_file_named_with_dots_stays_in_its_folder(folder: CheckpointFolder, tmp_path: Path) -> None:
    folder.save(1, CONTENT)
    for trick in ("../update-00000001.pt", "x/../../outside.pt"):
        with pytest.raises(CheckpointError):
            newest_good(folder.path / trick, pytest.fail)
    assert read_text(folder.path, "../outside") is None


# --- who may write


def test_second_run_in_the_same_folder_is_refused(folder: CheckpointFolder) -> None:
    with pytest.raises(CheckpointError, match="another run saves its checkpoints there"):
        CheckpointFolder(folder.path, keep=1)


def test_folder_can_be_taken_over_when_its_run_is_gone(folder: CheckpointFolder) -> None:
    child = os.fork()
    if child == 0:
        CheckpointFolder(folder.path.parent / "other", keep=1)
        os._exit(0)
    os.waitpid(child, 0)
    CheckpointFolder(folder.path.parent / "other", keep=1).close()


def test_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be saved there: .+ Give another --checkpointing.directory"):
        CheckpointFolder(tmp_path / "file", keep=1)


def test_damaged_later_ones_are_set_aside(folder: CheckpointFolder) -> None:
    for update in (1, 2, 3):
        folder.save(update, CONTENT)
    folder.set_aside_after(1)
    assert folder.newest_update == 1
    assert (folder.path / "update-00000002.pt.damaged").exists()
    folder.save(2, CONTENT)
    assert found(folder.path) == 2


def test_notes_lie_beside_the_checkpoints(folder: CheckpointFolder) -> None:
    assert read_text(folder.path, "note.json") is None
    folder.put_text("note.json", "{}")
    assert read_text(folder.path, "note.json") == "{}"
