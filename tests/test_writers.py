"""One writer at a time, nothing left of dead ones, and errors of the disk as errors of ours."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from qkv import files
from qkv.errors import StorageError
from qkv.files import clear_unfinished, only_writer, replace_folder, write_atomically

HEX = "0123456789abcdef" * 2
POSIX = pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")

HOLD = """
import sys, time
from qkv.files import replace_folder
with replace_folder(sys.argv[1]) as fresh:
    (fresh / "half").write_text("of it")
    print("writing", flush=True)
    time.sleep(60)
"""


def fill(folder, content):
    with replace_folder(folder) as fresh:
        (fresh / "file").write_text(content)


def lock_of(tmp_path, **owner):
    lock = tmp_path / ".folder.lock"
    lock.mkdir()
    known = {"pid": os.getpid(), "host": socket.gethostname(), "began": None}
    (lock / "token").write_text(json.dumps({**known, **owner}))
    return lock


@POSIX
def test_a_writer_names_the_other_one_and_clears_up_once_that_was_killed(tmp_path):
    folder = tmp_path / "folder"
    fill(folder, "old")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "writing\n"
        message = f"folder is being written by process {other.pid} on .*; expected one writer"
        with pytest.raises(StorageError, match=message):
            fill(folder, "new")
        assert len(list(tmp_path.iterdir())) == 3  # folder, its lock, what the other one writes
        other.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 3
    fill(folder, "new")
    assert (folder / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_lock_of_another_machine_is_kept_and_may_be_removed_by_hand(tmp_path):
    lock = lock_of(tmp_path, host="elsewhere", pid=7)
    message = f"process 7 on elsewhere; .*if that process no longer exists, remove {lock}"
    with pytest.raises(StorageError, match=message.replace("\\", "\\\\")):
        fill(tmp_path / "folder", "new")
    assert sorted(os.listdir(tmp_path)) == [".folder.lock"]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_number_that_another_process_got_later_holds_nothing(tmp_path):
    lock_of(tmp_path, pid=os.getppid(), began=files._began(os.getppid()))
    with pytest.raises(StorageError, match=f"by process {os.getppid()} "):
        fill(tmp_path / "folder", "new")
    (tmp_path / ".folder.lock" / "token").unlink()
    (tmp_path / ".folder.lock").rmdir()
    lock_of(tmp_path, pid=os.getppid(), began="boot 5")
    fill(tmp_path / "folder", "new")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_lock_that_never_reached_the_disk_holds_nothing(tmp_path, content):
    (lock_of(tmp_path) / "token").write_bytes(content)
    fill(tmp_path / "folder", "new")
    assert os.listdir(tmp_path) == ["folder"]


def test_an_empty_lock_and_that_of_this_number_in_an_earlier_life_hold_nothing(tmp_path):
    lock = lock_of(tmp_path)
    fill(tmp_path / "folder", "new")
    lock.mkdir()
    fill(tmp_path / "folder", "newer")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_lock_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / ".folder.lock").write_text("mine")
    with pytest.raises(StorageError, match="folder cannot be written"):
        fill(tmp_path / "folder", "new")
    assert os.listdir(tmp_path) == [".folder.lock"]


def test_of_many_threads_that_find_a_dead_lock_one_writes_at_a_time(tmp_path):
    inside, most, entered, refused = [], [], [], []

    def work(number):
        for _ in range(20):
            try:
                with only_writer(tmp_path / "folder"):
                    inside.append(number)
                    most.append(len(inside))
                    entered.append(number)
                    time.sleep(0.0002)
                    inside.remove(number)
            except StorageError:
                refused.append(number)
                with suppress(OSError):
                    lock_of(tmp_path)  # where there is none just then: one of the dead

    threads = [threading.Thread(target=work, args=(number,)) for number in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(entered) >= 7
    assert refused


def test_what_dead_writers_of_a_folder_left_is_removed_and_nothing_else(tmp_path):
    others = [f".other.{HEX}", ".folder.txt", f".folder.{HEX[1:]}", f"folder.{HEX}"]
    for name in (*others, f".folder.{HEX}", ".folder.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    fill(tmp_path / "folder", "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "folder"])


def test_what_a_dead_writer_of_a_file_left_is_removed_an_hour_later(tmp_path):
    left = tmp_path / f".file.{HEX}"
    left.write_text("half")
    write_atomically(tmp_path / "file", "new")
    assert left.exists()  # perhaps of a living one
    os.utime(left, (0, 0))
    write_atomically(tmp_path / "file", "new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_of_folders_is_cleared_with_what_stepped_aside_put_back(tmp_path):
    for name in (f".a.{HEX}", ".a.lock", f"..a.lock.{HEX}", ".b.old", ".c.old", "c", ".mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("x")
    clear_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine", "b", "c"]
    assert os.listdir(tmp_path / "c") == ["c"]


@pytest.mark.parametrize("write", [write_atomically, fill])
def test_a_place_that_nothing_can_be_written_to_is_an_error_of_ours(tmp_path, write):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in ("file/x", "file/x/y", "n" * 300, "nul\0", "\ud800", "loop/x", "loop"):
        if place == "loop" and write is write_atomically:
            continue  # a file takes the place of a link
        with pytest.raises(StorageError, match="cannot be written: "):
            write(tmp_path / place, "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "loop"]


@pytest.mark.parametrize("write", [write_atomically, fill])
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_an_error_of_ours(tmp_path, monkeypatch, write, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    write(tmp_path / "x", "old")
    for name in ("mkdir", "fsync", "rename", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            with suppress(StorageError):
                write(tmp_path / "x", "new")
        assert os.listdir(tmp_path) == ["x"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=rf"x cannot be written: .*{os.strerror(code)}"):
            write(tmp_path / "x", "newer")


LIMITED = """
import resource, sys
from pathlib import Path
from qkv.errors import StorageError
from qkv.files import replace_folder, write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
place = Path(sys.argv[1])
for write in (
    lambda: write_atomically(place / "file", b"x" * 10_007),
    lambda: replace(place / "folder"),
):
    try:
        write()
    except StorageError as error:
        print(error)
"""
REPLACE = """
def replace(path):
    with replace_folder(path) as fresh:
        (fresh / "small").write_bytes(b"y")
        (fresh / "large").write_bytes(b"x" * 10_007)
"""


@POSIX
def test_a_limit_on_the_size_of_files_leaves_what_was_there(tmp_path):
    write_atomically(tmp_path / "file", "old")
    fill(tmp_path / "folder", "old")
    code = REPLACE + LIMITED
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.count("cannot be written: [Errno 27] File too large") == 2
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
