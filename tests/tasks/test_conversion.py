"""From any format to the Hugging Face layout, and never over what is no checkpoint."""

import struct

import pytest
import torch
from tests.checkpoints.folders import contents, write

from qkv.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import CONFIG, INDEX, OWN_FILES, WEIGHTS
from qkv.data.tokenizers import TOKENIZER_FILES
from qkv.errors import ConfigError, DataError
from qkv.models.llama import Llama
from qkv.tasks.conversion import checkpoint_files, convert_model, read_model

# Width, feed-forward, layers, heads, key heads, vocabulary, length: llama2.c's header.
SIZES = (12, 11, 2, 3, 3, 37, 5)


def llama2c(path):
    """A model of llama2.c: seven sizes, then as many numbers as they ask for."""
    d_model, d_ff, n_layers, n_heads, _, vocab_size, length = SIZES
    block = 2 * d_model + 4 * d_model**2 + 3 * d_model * d_ff
    n_numbers = vocab_size * d_model + n_layers * block + d_model + length * (d_model // n_heads)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(n_numbers, generator=generator)
    path.write_bytes(struct.pack("7i", *SIZES) + numbers.numpy().tobytes())
    return path


def test_a_checkpoint_is_written_as_it_was(tmp_path):
    write(tmp_path / "source")
    convert_model(tmp_path / "source", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(tmp_path / "source")


def test_another_dtype(tmp_path):
    original = write(tmp_path / "source")
    loaded = convert_model(tmp_path / "source", tmp_path / "half", dtype="bfloat16").loaded
    again = load_checkpoint(tmp_path / "half")
    for mine, first, found in zip(
        loaded.model.parameters(), original.parameters(), again.model.parameters(), strict=True
    ):
        assert mine.dtype == found.dtype == torch.bfloat16
        assert torch.equal(found, first.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_binary_file(dtype, tmp_path):
    source = llama2c(tmp_path / "model.bin")
    loaded = convert_model(source, tmp_path / "new", dtype=dtype).loaded
    again = load_checkpoint(tmp_path / "new").model
    assert type(again) is Llama
    assert again.config == loaded.model.config
    for mine, found in zip(loaded.model.parameters(), again.parameters(), strict=True):
        assert found.dtype == getattr(torch, dtype or "float32")
        assert torch.equal(mine, found)
    # Of a folder, the file is meant that CTranslate2 writes.
    assert type(read_model(tmp_path).model) is Llama


def test_what_is_no_checkpoint_stays_as_it_is(tmp_path):
    write(tmp_path / "source")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"notes has files, but no .* is not changed"):
        convert_model(tmp_path / "source", tmp_path / "notes")
    with pytest.raises(DataError, match=r"config.json is not a folder; expected a folder"):
        convert_model(tmp_path / "source", tmp_path / "notes" / "config.json")
    assert contents(tmp_path) == before


def test_an_empty_folder_and_a_checkpoint_are_written(tmp_path):
    write(tmp_path / "source")
    write(tmp_path / "other", "gpt2")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "other"):
        convert_model(tmp_path / "source", tmp_path / name)
        assert contents(tmp_path / name) == contents(tmp_path / "source")


def test_a_source_that_cannot_be_read_leaves_the_target_whole(tmp_path):
    write(tmp_path / "target")
    before = contents(tmp_path)
    for source in ("nowhere", tmp_path / "nothing.bin"):
        with pytest.raises(DataError, match="is neither a folder, nor a shipped model"):
            convert_model(source, tmp_path / "target")
    (tmp_path / "text.bin").write_bytes(b"no model at all, only some words of text")
    with pytest.raises(DataError, match="not with model sizes"):
        convert_model(tmp_path / "text.bin", tmp_path / "target")
    (tmp_path / "text.bin").unlink()
    assert contents(tmp_path) == before


def test_the_files_of_a_checkpoint(tmp_path):
    write(tmp_path, shard_bytes=9000)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "picture.png").write_bytes(b"")
    names = [path.name for path in checkpoint_files(tmp_path)]
    assert names[:2] == ["config.json", "model.safetensors.index.json"]
    assert names[-1] == "tokenizer.json"
    assert set(names) == {path.name for path in tmp_path.iterdir()} - {"picture.png"}


@pytest.mark.parametrize("name", ["x.onnx", "model.safetensors", "x.pt"])
def test_a_format_that_is_not_written_makes_no_folder(name, tmp_path):
    write(tmp_path / "source")
    with pytest.raises(DataError, match=r"looks like a file.*NAME.gguf.* is not implemented"):
        convert_model(tmp_path / "source", tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["dates", "all-MiniLM-L6-v2"])
def test_a_model_that_gguf_does_not_know(name, tmp_path):
    with pytest.raises(ConfigError, match=r"a \w+ cannot be written as GGUF; expected one of Ll"):
        convert_model(name, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_a_trained_model_is_not_replaced(tmp_path):
    write(tmp_path / "source")
    for name, kept in (("one", "one/results.json"), ("two", "two.training/checkpoints")):
        write(tmp_path / name)
        (tmp_path / kept).parent.mkdir(exist_ok=True)
        (tmp_path / kept).write_text("{}")
        before = contents(tmp_path / name)
        with pytest.raises(DataError, match=r"holds a trained model \(.*not changed"):
            convert_model(tmp_path / "source", tmp_path / name)
        assert contents(tmp_path / name) == before


@pytest.mark.parametrize("name", ["notes.txt", "x.json", "mine.model", "vectors.safetensors"])
def test_files_beside_a_checkpoint_are_not_deleted(tmp_path, name):
    write(tmp_path / "source")
    write(tmp_path / "target", seed=1)
    (tmp_path / "target" / name).write_text("{}")
    before = contents(tmp_path / "target")
    with pytest.raises(DataError, match=rf"target has {name} beside a checkpoint, so it is not ch"):
        convert_model(tmp_path / "source", tmp_path / "target")
    assert contents(tmp_path / "target") == before
    if name != "vectors.safetensors":  # saved with the model, so nothing would be lost
        (tmp_path / "source" / name).write_text("{}")
        convert_model(tmp_path / "source", tmp_path / "target")
        (tmp_path / "source" / name).write_text("{ }")
        with pytest.raises(DataError, match=f"target has {name} beside"):
            convert_model(tmp_path / "source", tmp_path / "target")
    # Whoever saves a model into a folder of notes keeps them as well.
    (tmp_path / "target" / name).write_text("{}")
    save_checkpoint(load_checkpoint(tmp_path / "target"), tmp_path / "target", files={})
    assert (tmp_path / "target" / name).read_text() == "{}"


def test_the_files_of_tokenizers_belong_to_a_checkpoint():
    assert TOKENIZER_FILES <= OWN_FILES
    assert {CONFIG, INDEX, WEIGHTS} <= OWN_FILES
