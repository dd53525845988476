"""Export a model and its tokenizer to a GGUF file, for llama.cpp."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkv.checkpoints.checkpoint import Checkpoint
from qkv.checkpoints.gguf import MAGIC
from qkv.checkpoints.gguf_names import ENDS, SAMPLING, TOKENS
from qkv.checkpoints.gguf_write import check_writable, write_gguf
from qkv.data.tokenizers import Tokenizer
from qkv.data.tokenizers.gguf import gguf_tokenizer_files
from qkv.data.tokenizers.gguf_write import Written, write_gguf_tokenizer
from qkv.errors import ConfigError, DataError, StorageError
from qkv.generation.config import APPLIED, IDS
from qkv.inference.optimize import is_optimized
from qkv.tasks.decoding import FILE, read_decoding
from qkv.tasks.pretrained import Loaded

# Texts on which the written tokenizer must agree: spaces, digits, letters of several scripts.
PROBES = (
    "Hello world, it's 12345 tokens!  Two  spaces\n\nand lines\r\n\t tab ",
    " DON'T you'LL (we've) a_b-c/d\\e {\"a\": [1, 2.5e-3]} x=y; <s> </s> <|endoftext|>",
    "naïve café über ½ ² 日本語のテキスト привет мир ١٢٣ שלום 한국어 🎉👩‍🚀",
    "a",
    "",
)
NO_RULES = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


def export_gguf(
    loaded: Loaded, path: str | os.PathLike[str], *, kind: str | None = None
) -> list[str]:
    """Write a model as a GGUF file, atomically; return the features that GGUF does not support.

    Args:
        loaded: the model.
        path: the file.
        kind: dtype of the matrices, one of `KINDS`; None: the dtype of the parameters.

    Raises:
        ConfigError: if GGUF cannot express the model or its tokenizer.
        DataError: if the path exists and is not a GGUF file.
        StorageError: if it cannot be written.
    """
    check_file(path)
    if is_optimized(loaded.model):
        raise ConfigError(
            "an optimized model cannot be written as GGUF; expected the model that it was made of"
        )
    checkpoint = Checkpoint(loaded.model, loaded.config, loaded.origin)
    check_writable(checkpoint)
    metadata: dict[str, Any] = {"general.type": "model"}
    left_out: list[str] = []
    if loaded.tokenizer is None:
        metadata["tokenizer.ggml.model"] = "no_vocab"
    else:
        written = write_gguf_tokenizer(loaded.tokenizer, loaded.model.config.vocab_size)
        metadata |= written.metadata | _ids(loaded, loaded.tokenizer, written)
        _check_tokenizer(loaded.tokenizer, metadata)
        left_out += written.left_out
    metadata |= _sampling(loaded, left_out)
    write_gguf(checkpoint, path, metadata=metadata, kind=kind)
    return left_out


def check_file(path: str | os.PathLike[str]) -> None:
    """Check that a GGUF file can be written to a path: it is new, or a GGUF file to replace.

    Raises:
        DataError: if something else is there.
        StorageError: if it cannot be accessed.
    """
    path = Path(path)
    try:
        if not (path.exists() or path.is_symlink()):
            return
        content = b""
        if path.is_file():  # not a folder, nor a device
            with path.open("rb") as file:
                content = file.read(len(MAGIC))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    if content != MAGIC:
        raise DataError(
            f"{path} exists and is no GGUF file, so it is not changed; expected a new name, or a "
            "GGUF file to replace"
        )


def _ids(loaded: Loaded, tokenizer: Tokenizer, written: Written) -> dict[str, int]:
    """Return the ids of the start, stop and padding tokens."""
    raw, roles = loaded.config, tokenizer.roles
    ends = list(dict.fromkeys(read_decoding(loaded).stops)) or [roles.get("stop")]
    usual = written.end if written.end is not None else roles.get("stop")
    if usual in ends:
        ends = [usual, *(one for one in ends if one != usual)]
    if len(ends) > 1 + len(ENDS) or (written.end is not None and written.end != ends[0]):
        raise ConfigError(
            f"a text ends with one of the tokens {ends}, and the tokenizer adds {written.end}, "
            f"which GGUF cannot express; expected at most {1 + len(ENDS)} tokens, the added one "
            "among them"
        )
    first = [written.start, raw.get("bos_token_id"), roles.get("start")]
    fill = [raw.get("pad_token_id"), roles.get("pad")]
    found = {
        TOKENS["bos_token_id"]: next((one for one in first if one is not None), None),
        TOKENS["pad_token_id"]: next((one for one in fill if one is not None), None),
        **dict(zip((TOKENS["eos_token_id"], *ENDS), ends, strict=False)),
    }
    return {name: i for name, i in found.items() if type(i) is int and i >= 0}


def _check_tokenizer(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Check that a tokenizer read from the metadata returns the same ids."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in gguf_tokenizer_files(metadata).items():
            Path(folder, name).write_bytes(content)
        again = Tokenizer.load(folder)
    for text in PROBES:
        rows = [one.add_special_tokens(one.encode(text)).ids for one in (tokenizer, again)]
        if rows[0] != rows[1]:
            raise ConfigError(
                f"the tokenizer cannot be written as GGUF: {text!r} has the ids {rows[0][:12]}, "
                f"but {rows[1][:12]} when it is read back"
            )


def given_rules(loaded: Loaded) -> dict[str, Any]:
    """Return the fields of the model's files that change how texts are decoded."""
    content = loaded.files.get(FILE)
    fields = loaded.config if content is None else json.loads(content)
    return {
        name: fields[name] for name in APPLIED.keys() & fields.keys() if fields[name] is not None
    }


def _sampling(loaded: Loaded, left_out: list[str]) -> dict[str, Any]:
    """Return the sampling settings; add other decoding settings to `left_out`."""
    given = given_rules(loaded)
    others = given.keys() - {"do_sample", *IDS, *SAMPLING}
    if not given.get("do_sample"):
        others |= given.keys() & {"repetition_penalty"}
    left_out += [
        f"{name} = {given[name]}" for name in sorted(others) if given[name] != NO_RULES.get(name)
    ]
    if given.get("do_sample"):
        return {
            key: given[name] if name == "top_k" else float(given[name])
            for name, key in SAMPLING.items()
            if name in given
        } or {SAMPLING["temperature"]: 1.0}
    return {SAMPLING["temperature"]: 0.0} if "do_sample" in given else {}
