"""A file is whole or absent, whatever happens while it is written."""

import os

import pytest

from qkv.errors import StorageError
from qkv.files import replace_folder, whole_folder, write_atomically


def test_text_is_written_as_utf8_with_its_own_newlines(tmp_path):
    path = tmp_path / "new" / "folder" / "text"
    write_atomically(path, "é\r\nü\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\xc3\xbc\n"


def test_bytes_replace_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old, and longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_content_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    for step in ("fsync", "replace"):
        original = getattr(os, step)
        monkeypatch.setattr(os, step, lambda *a, f=original, s=step: (steps.append(s), f(*a)))
    write_atomically(tmp_path / "file", b"new")
    assert steps == ["fsync", "replace"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_the_file_has_the_permissions_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", b"")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_replaced_with_all_that_is_in_it(tmp_path):
    folder = tmp_path / "new" / "folder"
    for generation in (["a", "deep/b"], ["c"]):
        with replace_folder(folder) as fresh:
            assert list(fresh.iterdir()) == []
            fill(fresh, *generation)
            assert names(folder) != generation
        assert names(folder) == generation
        assert os.listdir(folder.parent) == ["folder"]


def test_an_error_keeps_the_old_folder_and_leaves_nothing_else(tmp_path):
    folder = tmp_path / "folder"
    with replace_folder(folder) as fresh:
        fill(fresh, "old")

    def fail():
        with replace_folder(folder) as fresh:
            fill(fresh, "new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert names(folder) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


def test_what_is_in_a_folder_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    folder, steps, open_files = tmp_path / "folder", [], {}
    with replace_folder(folder) as fresh:
        fill(fresh, "old")
    opened, fsync, rename = os.open, os.fsync, os.rename

    def remember(path, flags):
        descriptor = opened(path, flags)
        open_files[descriptor] = path.name
        return descriptor

    with monkeypatch.context() as patch, replace_folder(folder) as fresh:
        fill(fresh, "deep/a")
        patch.setattr(os, "open", remember)
        patch.setattr(os, "fsync", lambda d: (steps.append(open_files[d]), fsync(d)))
        patch.setattr(os, "rename", lambda *a: (steps.append("rename"), rename(*a)))
    assert sorted(steps[:2]) == ["a", "deep"]
    assert steps[2:] == [fresh.name, "rename", "rename", tmp_path.name]


def test_a_folder_that_stepped_aside_is_found_and_put_back(tmp_path):
    folder = tmp_path / "folder"
    with replace_folder(folder) as fresh:
        fill(fresh, "old")
    assert whole_folder(folder) == folder
    os.rename(folder, tmp_path / ".folder.old")  # where a process died
    assert names(whole_folder(folder)) == ["old"]
    with pytest.raises(OSError, match="again"), replace_folder(folder):
        raise OSError("again")
    assert names(folder) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


def test_an_old_folder_that_was_replaced_is_removed_later(tmp_path):
    folder = tmp_path / "folder"
    fill(tmp_path, ".folder.old/old", "folder/new")  # a process died while it cleaned up
    assert names(whole_folder(folder)) == ["new"]
    with replace_folder(folder) as fresh:
        fill(fresh, "newer")
    assert names(folder) == ["newer"]
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_that_never_was_is_not_found(tmp_path):
    assert whole_folder(tmp_path / "folder") == tmp_path / "folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_not_a_folder_is_never_replaced_by_one(tmp_path):
    """Such as a device: an output /dev/null of an administrator would be gone for everyone."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    for name in ("pipe", "file"):
        refused = pytest.raises(StorageError, match=f"{name} is not a folder; expected a folder")
        with refused, replace_folder(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]
