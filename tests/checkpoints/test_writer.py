"""Saving: a folder is whole at any moment, and keeps what is not a checkpoint's."""

import itertools
import json
import os
import shutil

import pytest
import torch
from safetensors import SafetensorError
from tests.checkpoints.folders import contents, model, write

from qkv.checkpoints import writer
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.writer import Layout, lay_out
from qkv.errors import DataError, StorageError


class CrashError(Exception):
    """A full disk, or the end of the process."""


def steps(monkeypatch, crash_at=None):
    """Count the steps that touch the disk; fail at one of them."""
    done = []

    def counted(step, call):
        def run(*args, **kwargs):
            done.append(step)
            if len(done) == crash_at:
                raise CrashError(step)
            return call(*args, **kwargs)

        return run

    monkeypatch.setattr(writer, "save_file", counted("save_file", writer.save_file))
    for name in ("rename", "fsync", "link", "mkdir"):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    return done


def old_and_new(folder):
    old = write(folder, seed=1)
    (folder / "notes.txt.bak").write_text("kept")
    (folder / "runs").mkdir()
    (folder / "runs" / "events").write_text("log")
    return old, Checkpoint(model(seed=2), {"model_type": "bert"})


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(mine, other) for mine, other in pairs)


def test_a_crash_at_any_step_leaves_the_old_folder_whole(tmp_path, monkeypatch):
    folder = tmp_path / "bert"
    old, fresh = old_and_new(folder)
    old = Checkpoint(old, {"model_type": "bert"})
    before = contents(folder)
    outcomes, kinds = [], set()
    for step in itertools.count(1):
        with monkeypatch.context() as patch:
            done = steps(patch, step)
            try:
                save_checkpoint(fresh, folder)
            except CrashError as error:
                kinds.add(str(error))
            else:
                break
        assert os.listdir(tmp_path) == ["bert"]
        outcomes.append("old" if contents(folder) == before else "new")
        if outcomes[-1] == "new":  # the crash came after the new folder was in its place
            assert same(load_checkpoint(folder).model, fresh.model)
            save_checkpoint(old, folder)
            assert contents(folder) == before
    assert len(done) == step - 1
    assert kinds == {"save_file", "mkdir", "link", "fsync", "rename"}
    assert outcomes.count("new") == 1
    assert same(load_checkpoint(folder).model, fresh.model)


def test_a_process_that_dies_between_the_renames_is_recovered_from(tmp_path, monkeypatch):
    folder = tmp_path / "life" / "bert"
    old, fresh = old_and_new(folder)
    before = contents(folder)
    rename = os.rename

    def leave_a_copy_before_the_second(old, new):
        if new == folder:
            shutil.copytree(tmp_path / "life", tmp_path / "death")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", leave_a_copy_before_the_second)
        save_checkpoint(fresh, folder)
    folder = tmp_path / "death" / "bert"
    assert not folder.exists()
    assert same(load_checkpoint(folder).model, old)  # reading recovers, and writes nothing
    assert not folder.exists()
    save_checkpoint(fresh, folder)
    assert same(load_checkpoint(folder).model, fresh.model)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert after["runs/events"] == b"log"
    assert os.listdir(tmp_path / "death") == ["bert"]


def test_a_full_disk_is_an_error_of_ours_and_the_old_folder_stays(tmp_path, monkeypatch):
    _, fresh = old_and_new(tmp_path / "bert")
    before = contents(tmp_path / "bert")

    def refuse(*args):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(writer, "save_file", refuse)
    with pytest.raises(StorageError, match=r"bert cannot be written: .*No space left on device"):
        save_checkpoint(fresh, tmp_path / "bert")
    assert contents(tmp_path / "bert") == before
    assert os.listdir(tmp_path) == ["bert"]


def test_half_a_pair_of_surrogates_is_written_as_it_was_read(tmp_path):
    config = {"model_type": "bert", "note": "a \ud800 and \u00e9 \U0001f600"}
    writer.write_checkpoint(
        tmp_path / "bert", config=config, tensors={}, layout=Layout({}), files={}
    )
    assert json.loads((tmp_path / "bert" / "config.json").read_bytes())["note"] == config["note"]


def test_files_that_are_no_checkpoints_stay(tmp_path):
    old_and_new(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("of the old model")
    (tmp_path / "bert" / "model-00001-of-00009.safetensors").write_text("of the old model")
    write(tmp_path / "bert", seed=2)
    assert set(contents(tmp_path / "bert")) == {
        "config.json",
        "model.safetensors",
        "notes.txt.bak",
        "runs/events",
    }


def test_files_have_the_permissions_that_any_new_file_has(tmp_path):
    write(tmp_path / "bert")
    (tmp_path / "plain").touch()
    for path in (tmp_path / "bert").iterdir():
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "bert").write_text("")
    with pytest.raises(DataError, match="bert is a file; expected a folder"):
        write(tmp_path / "bert")


def test_a_folder_that_is_a_link_stays_one(tmp_path):
    write(tmp_path / "real", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    new = write(tmp_path / "link", seed=2)
    assert (tmp_path / "link").is_symlink()
    assert same(load_checkpoint(tmp_path / "real").model, new)


@pytest.mark.parametrize("shard_bytes", [1, 3_000, 7_000, 10**9])
def test_shards_hold_every_tensor_once_and_no_more_than_fits(tmp_path, shard_bytes):
    one = write(tmp_path / "bert", shard_bytes=shard_bytes)
    weights = open_weights(tmp_path / "bert")
    for shard in weights.shards:
        sizes = [weights[name].nbytes for name in shard.names]
        assert sum(sizes) <= shard_bytes or len(sizes) == 1
    assert len(weights) == len(list(one.parameters()))
    assert (len(weights.shards) > 1) == (shard_bytes < 10**9)
    assert same(load_checkpoint(tmp_path / "bert").model, one)


def test_shards_are_named_as_the_index_says(tmp_path):
    write(tmp_path / "bert", shard_bytes=7_000)
    index = json.loads((tmp_path / "bert" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "bert").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"


def test_shared_memory_is_written_twice(tmp_path):
    one = torch.randn(3, 5)
    tensors = {"a": one, "b": one, "c": one[1:2]}
    layout = lay_out(tensors, 10**9)
    writer.write_checkpoint(tmp_path / "x", config={}, tensors=tensors, layout=layout, files={})
    read = open_weights(tmp_path / "x")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


@pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")
def test_links_and_pipes_of_the_folder_stay_and_nothing_waits_for_them(tmp_path):
    _, fresh = old_and_new(tmp_path / "bert")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("not ours")
    links = {"dangling": "nowhere", "file": "../elsewhere/file", "inside": "runs", "loop": "loop"}
    for name, target in {**links, "folder": "../elsewhere"}.items():
        (tmp_path / "bert" / name).symlink_to(target)
    os.mkfifo(tmp_path / "bert" / "pipe")
    save_checkpoint(fresh, tmp_path / "bert")
    for name, target in {**links, "folder": "../elsewhere"}.items():
        assert os.readlink(tmp_path / "bert" / name) == target
    assert (tmp_path / "bert" / "pipe").is_fifo()
    assert os.listdir(tmp_path / "elsewhere") == ["file"]
    assert same(load_checkpoint(tmp_path / "bert").model, fresh.model)
    (tmp_path / "link").symlink_to(tmp_path / "bert")
    save_checkpoint(fresh, tmp_path / "link")  # where it points to
    assert (tmp_path / "link").is_symlink()
