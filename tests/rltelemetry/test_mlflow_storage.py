"""Where a spool lies: one owner a file, families of forked processes, what it leaves behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rltelemetry.sinks.mlflow.connection import connect_disk
from rltelemetry.sinks.mlflow.storage import SpoolFile

NOW_NS = 1_700_000_000_000_000_000


def new(directory: Path, parent: SpoolFile | None = None) -> SpoolFile:
    return SpoolFile.new(directory, NOW_NS, parent)


def test_name_says_when_and_who() -> None:
    file = new(Path("/x"))
    assert file.path.name.startswith(f"20231114-221320-{os.getpid()}-")
    assert file.path.suffix == ".spool"


def test_family_has_one_head_whatever_the_depth(tmp_path: Path) -> None:
    head = new(tmp_path)
    child = new(tmp_path, head)
    grandchild = new(tmp_path, child)
    assert (head.is_child, child.is_child, grandchild.is_child) == (False, True, True)
    assert head.family == child.family == grandchild.family
    assert grandchild.head.path == head.path
    for file in (head, child, grandchild):
        file.path.touch()
    new(tmp_path).path.touch()
    assert [file.path for file in head.children()] == sorted([child.path, grandchild.path])
    listed = [file.path for file in SpoolFile.all_in(tmp_path)]
    assert listed.index(head.path) < listed.index(child.path)
    assert len(listed) == 4


def test_file_has_one_owner_within_a_process(tmp_path: Path) -> None:
    file = new(tmp_path)
    assert file.acquire()
    assert file.acquire()
    assert not SpoolFile(file.path).acquire()
    file.release(remove=False)
    assert SpoolFile(file.path).acquire()


def test_owner_in_another_process_is_respected_until_it_dies(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from rltelemetry.sinks.mlflow.connection import connect_disk
from rltelemetry.sinks.mlflow.storage import SpoolFile
file = SpoolFile(Path(sys.argv[1]))
connect_disk(file, "normal")
print("ready", flush=True)
sys.stdin.read()
"""
    path = tmp_path / "a.spool"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert not SpoolFile(path).acquire_abandoned()
        with pytest.raises(BlockingIOError):
            connect_disk(SpoolFile(path), "normal")
        process.kill()
        process.wait()
        assert SpoolFile(path).acquire_abandoned()


def test_lock_is_not_inherited_by_a_forked_child(tmp_path: Path) -> None:
    file = new(tmp_path)
    file.acquire()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if not SpoolFile(file.path).acquire() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert not SpoolFile(file.path).acquire()


def test_what_never_existed_or_is_gone_is_not_abandoned(tmp_path: Path) -> None:
    file = SpoolFile(tmp_path / "none.spool")
    assert not file.acquire_abandoned()
    assert list(tmp_path.iterdir()) == []


def test_file_on_a_disk_that_does_not_answer_is_not_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    file = new(tmp_path)
    assert file.is_gone
    with monkeypatch.context() as broken:
        broken.setattr(Path, "stat", silent)
        assert not file.is_gone


def test_removing_takes_every_companion_along(tmp_path: Path) -> None:
    file = new(tmp_path)
    db = connect_disk(file, "normal")
    db.execute("INSERT INTO meta VALUES ('a', '1')")
    db.commit()
    assert len(list(tmp_path.iterdir())) > 2
    db.close()
    file.release(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    file = new(tmp_path / "deep" / "down")
    connect_disk(file, "normal").close()
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.lock_path.stat().st_mode & 0o777 == 0o600


def test_file_that_is_put_aside_is_no_spool_any_more(tmp_path: Path) -> None:
    file = new(tmp_path)
    file.path.write_text("x")
    aside = file.put_aside("damaged")
    assert aside.exists()
    assert SpoolFile.all_in(tmp_path) == []


def test_time_of_the_last_write_is_known(tmp_path: Path) -> None:
    file = new(tmp_path)
    assert file.written_at_ns == 0
    file.path.touch()
    wal = file.path.with_name(f"{file.path.name}-wal")
    wal.touch()
    os.utime(file.path, ns=(NOW_NS, NOW_NS))
    os.utime(wal, ns=(NOW_NS + 5, NOW_NS + 5))
    assert file.written_at_ns == NOW_NS, "an empty log is a reader's"
    wal.write_bytes(b"frames")
    os.utime(wal, ns=(NOW_NS + 5, NOW_NS + 5))
    assert file.written_at_ns == NOW_NS + 5
