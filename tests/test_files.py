"""A file is whole or absent, whatever happens while it is written."""

import os

import pytest

from qkv.files import write_atomically


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
