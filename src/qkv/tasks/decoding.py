"""Decoding settings in a model's own files, for every task that generates text."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qkv.checkpoints.reader import CONFIG
from qkv.errors import ConfigError, DataError
from qkv.generation.config import IDS, KNOWN, decoding_of
from qkv.generation.decoding import Decoding
from qkv.generation.ranking import Beam
from qkv.models.pointer_generator import PointerGenerator
from qkv.tasks.pipeline import PARAMETERS, read_settings, with_parameters
from qkv.tasks.pretrained import Loaded

FILE = "generation_config.json"
SUMMARIES = "summarization"  # in task_specific_params of config.json


def read_decoding(loaded: Loaded, more: Mapping[str, Any] | None = None) -> Decoding:
    """Return the decoding settings of generation_config.json, as transformers reads them.

    Without this file, the fields of config.json are used. Start and stop ids are also looked up in
    config.json if the first file lacks them.

    Args:
        loaded: the model.
        more: fields that override those of the file, such as those of a task.

    Raises:
        ConfigError: a field has a wrong type, or an unsupported value.
        DataError: the file is not a JSON object.
    """
    where, fields = _file(loaded)
    for name in IDS:
        if fields.get(name) is None and loaded.config.get(name) is not None:
            fields[name] = loaded.config[name]
    config = getattr(loaded.model, "config", None)
    sizes = (getattr(config, name, None) for name in ("target_vocab_size", "vocab_size"))
    vocab_size = next((size for size in sizes if size is not None), None)
    return decoding_of(fields | dict(more or {}), where=where, vocab_size=vocab_size)


def _file(loaded: Loaded) -> tuple[str, dict[str, Any]]:
    """Return the name of the file that is read, and its fields."""
    content = loaded.files.get(FILE)
    if content is None:
        return CONFIG, {name: loaded.config[name] for name in KNOWN & set(loaded.config)}
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{FILE} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{FILE} is a JSON {type(fields).__name__}; expected an object")
    return FILE, fields


def decoding_fields(beam: Beam, max_length: int) -> dict[str, Any]:
    """Return the fields from which `read_decoding` restores a beam search.

    Args:
        beam: how to search.
        max_length: maximum number of new tokens.

    Raises:
        ConfigError: the files of a model cannot express the beam.
    """
    if (beam.length_penalty and beam.length_rule != "power") or beam.coverage_penalty:
        raise ConfigError(
            f"a beam with length_rule = {beam.length_rule!r} and coverage_penalty = "
            f"{beam.coverage_penalty} cannot be saved; expected 'power' and 0, the only ones that "
            "config.json can express"
        )
    return {
        "max_length": max_length + 1,  # includes the start token
        "num_beams": beam.size,
        "length_penalty": beam.length_penalty,
        "early_stopping": beam.early_stopping,
    }


def with_decoding(loaded: Loaded, beam: Beam, max_length: int, *, usual: int) -> Loaded:
    """Return a model whose files have these settings; unchanged if they have them already.

    Args:
        loaded: the model; without files, special tokens come from its tokenizer's target side.
        beam: how to search.
        max_length: maximum number of new tokens.
        usual: maximum length if the files set none.

    Raises:
        ConfigError: the files cannot express the beam.
    """
    if loaded.origin is not None:
        known = read_decoding(loaded)
        if (known.beam, known.limits(1, usual=usual).most) == (beam, max_length):
            return loaded
    settings = decoding_fields(beam, max_length)
    if loaded.origin is None:
        return replace(loaded, config={**loaded.config, **_special_tokens(loaded), **settings})
    settings |= {"do_sample": False, "max_new_tokens": None}
    if FILE not in loaded.files:
        return replace(loaded, config={**loaded.config, **settings})
    fields = json.dumps({**_file(loaded)[1], **settings}, indent=2) + "\n"
    files = {**loaded.files, FILE: fields.encode()}
    return replace(loaded, origin=replace(loaded.origin, files=files))


def _special_tokens(loaded: Loaded) -> dict[str, Any]:
    """Return the fields for the special tokens of a new encoder-decoder."""
    if loaded.tokenizer is None:
        return {}
    tokenizer = loaded.tokenizer.target
    return {
        "is_encoder_decoder": True,
        "pad_token_id": tokenizer.pad,
        "bos_token_id": tokenizer.start,
        "eos_token_id": tokenizer.stop,
        "decoder_start_token_id": tokenizer.start,
        "forced_eos_token_id": None,
    }


def check_search(decoding: Decoding, *, chosen: bool) -> None:
    """Reject decoding settings that beam search does not support.

    Args:
        decoding: the model's settings.
        chosen: whether the caller chose a beam size.

    Raises:
        ConfigError: the files set sampling and the caller chose no beam size, or they set stop
            strings.
    """
    if decoding.draws and not chosen:
        raise ConfigError(
            "the model's files have do_sample = true, but this task does not sample; expected "
            "false, or a beam size: beam=1 (--beam 1) is greedy decoding"
        )
    if decoding.stop_strings:
        raise ConfigError(
            f"the model's files have stop_strings = {list(decoding.stop_strings)}; expected none: "
            "beam search only supports stop tokens"
        )


def choose_beam(decoding: Decoding, beam: Beam | int | None) -> Beam:
    """Return the caller's beam, or the model's own with the caller's size, if any.

    Raises:
        ConfigError: see `check_search`.
    """
    check_search(decoding, chosen=beam is not None)
    if isinstance(beam, Beam):
        return beam
    return decoding.beam if beam is None else replace(decoding.beam, size=beam)


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """The decoding settings of summaries, saved in config.json.

    Args:
        max_source: maximum number of tokens of a text, special tokens included; the rest is
            truncated.
        max_length: maximum number of tokens of a summary.
        beam: beam size; 1 is greedy decoding.
        length_penalty: alpha of Wu et al. 2016, eq. 14; values above 0 favor longer summaries.
        prefix: text before each input, as T5 expects it.

    Raises:
        ConfigError: a number below 1.
    """

    max_source: int = 160
    max_length: int = 32
    beam: int = 4
    length_penalty: float = 1.0
    prefix: str = ""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("max_source", "max_length", "beam"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1")


def read_summary_decoding(loaded: Loaded, *, chosen: bool) -> tuple[dict[str, Any], Decoding]:
    """Return the fields of `DecodingConfig` in a model's files, and its other settings.

    For BART and T5, they are read from the fields of transformers.

    Args:
        loaded: the model.
        chosen: whether the caller chose a beam size.

    Raises:
        ConfigError: the files lack a start or stop token, or a setting is unsupported.
    """
    own = read_settings(loaded, SUMMARIES, DecodingConfig)
    if isinstance(loaded.model, PointerGenerator):
        return own, Decoding()
    stored = dict((loaded.config.get(PARAMETERS) or {}).get(SUMMARIES) or {})
    theirs = {name: own[name] for name in ("max_length", "length_penalty") if name in own}
    more = {name: value for name, value in stored.items() if name not in own}
    decoding = read_decoding(loaded, more | theirs)
    if decoding.start is None or not decoding.stops:
        raise ConfigError(
            f"the model's files have decoder_start_token_id = {decoding.start} and eos_token_id = "
            f"{list(decoding.stops)}; expected an id each, for the start and the end of a summary"
        )
    check_search(decoding, chosen=chosen)
    config = {
        "max_source": own.get("max_source", 512),
        "max_length": decoding.limits(1, usual=128).most,
        "beam": decoding.beam.size,
        "length_penalty": decoding.beam.length_penalty,
        "prefix": own.get("prefix", ""),
    }
    return config, decoding


def with_summary_decoding(loaded: Loaded, config: DecodingConfig) -> Loaded:
    """Return a model whose config.json has these settings, for `read_summary_decoding`."""
    if isinstance(loaded.model, PointerGenerator):
        return with_parameters(loaded, **{SUMMARIES: vars(config)})
    stored = (loaded.config.get(PARAMETERS) or {}).get(SUMMARIES) or {}
    fields = {
        **stored,
        "max_source": config.max_source,
        "prefix": config.prefix,
        "max_length": config.max_length + 1,  # includes the start token
        "max_new_tokens": None,
        "num_beams": config.beam,
        "length_penalty": config.length_penalty,
        "do_sample": False,
    }
    return with_parameters(loaded, **{SUMMARIES: fields})
