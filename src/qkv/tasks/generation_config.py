"""One reader of generation_config.json for all tasks: each field is applied, harmless, or refused.

Where there is no such file, config.json's own fields of these names are read, as in transformers.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from qkv.checkpoints.reader import CONFIG
from qkv.errors import ConfigError, DataError
from qkv.generation.ranking import Beam
from qkv.generation.sampling import Sampling
from qkv.tasks.decoding import Decoding
from qkv.tasks.pretrained import Loaded

FILE = "generation_config.json"
TOP_K = 50  # of transformers, where tokens are drawn and the file does not say it


class _WrongTypeError(Exception):
    """A value of another kind; it says which was expected."""


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or value < least:
            raise _WrongTypeError(f"a whole number from {least} on")
        return value

    return read


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise _WrongTypeError("a number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _WrongTypeError("true or false")
    return value


def _ids(value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    if not all(type(one) is int for one in ids):
        raise _WrongTypeError("a token id or a list of them")
    return tuple(ids)


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(one, list) and one for one in value):
        raise _WrongTypeError("a list of lists of token ids")
    return tuple(map(_ids, value))


def _texts(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one for one in texts):
        raise _WrongTypeError("a text or a list of them")
    return tuple(texts)


def _early(value: Any) -> bool:
    if not isinstance(value, bool) and value != "never":
        raise _WrongTypeError('true, false or "never"')
    return value is True  # their false is a rule of its own, see docs/decoding.md


# Fields that are applied, and how their values are read; null is as if they were not there.
APPLIED: dict[str, Callable[[Any], Any]] = {
    "bad_words_ids": _words,
    "begin_suppress_tokens": _ids,
    "bos_token_id": _ids,
    "decoder_start_token_id": _whole(0),
    "do_sample": _flag,
    "early_stopping": _early,
    "encoder_no_repeat_ngram_size": _whole(0),
    "encoder_repetition_penalty": _number,
    "eos_token_id": _ids,
    "forced_bos_token_id": _whole(0),
    "forced_eos_token_id": _ids,
    "length_penalty": _number,
    "max_length": _whole(1),
    "max_new_tokens": _whole(1),
    "min_length": _whole(0),
    "min_new_tokens": _whole(0),
    "min_p": _number,
    "no_repeat_ngram_size": _whole(0),
    "num_beams": _whole(1),
    "renormalize_logits": _flag,
    "repetition_penalty": _number,
    "stop_strings": _texts,
    "suppress_tokens": _ids,
    "temperature": _number,
    "top_k": _whole(0),
    "top_p": _number,
}
# Fields that do nothing without `do_sample`, beside those that are applied; and what is no rule.
OF_DRAWING: dict[str, tuple[Any, ...]] = {
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
    "top_h": (),
    "typical_p": (1,),
}
# Fields that change what is written and are not implemented; and the values that change nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (0, 1),
    "penalty_alpha": (0,),
    "sequence_bias": (),
    "token_healing": (False,),
    "watermarking_config": (),
}
# Fields that change no token: how fast, how much is returned, what fills up, and who wrote it.
HARMLESS = frozenset(
    """
    assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight
    assistant_lookbehind cache_config cache_implementation chat_format compile_config
    continuous_batching_config disable_compile dtype is_assistant low_memory max_cache_len
    max_matching_ngram_size max_window_size num_assistant_tokens num_assistant_tokens_schedule
    num_return_sequences output_attentions output_hidden_states output_logits output_scores
    pad_token_id prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values
    return_dict_in_generate speculation_type target_lookbehind torch_dtype transformers_version
    trust_remote_code use_cache use_mtp
    """.split()  # noqa: SIM905 - thirty lines of quotes would hide them
)
KNOWN = frozenset((*APPLIED, *OF_DRAWING, *REFUSED, *HARMLESS))
WRITTEN = ("bad_words_ids", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
IDS = ("bos_token_id", "decoder_start_token_id", "eos_token_id")


def read_decoding(loaded: Loaded, more: Mapping[str, Any] | None = None) -> Decoding:
    """Read how a model's files say that it is decoded, as transformers reads them.

    Without generation_config.json they are the fields of config.json. Which ids begin and end
    answers is looked up in config.json, too, where the first file does not say it.

    Args:
        loaded: the model.
        more: fields that go before those of the file, such as those of a task.

    Raises:
        ConfigError: a field has a wrong type, or a value that is not implemented.
        DataError: the file is no JSON object.
    """
    where, raw = _file(loaded)
    for name in IDS:
        if raw.get(name) is None and loaded.config.get(name) is not None:
            raw[name] = loaded.config[name]
    said = _read(where, raw | dict(more or {}), _vocabulary(loaded))
    draws = said.get("do_sample")
    bos = said.get("bos_token_id") or (None,)
    return Decoding(
        start=said.get("decoder_start_token_id", bos[0]),
        stops=said.get("eos_token_id", ()),
        draws=draws,
        sampling=_sampling(said, draws=bool(draws)),
        beam=Beam(
            size=said.get("num_beams", 1),
            length_penalty=said.get("length_penalty", 1.0),
            length_rule="power",
            early_stopping=said.get("early_stopping", False),
        ),
        max_length=said.get("max_length"),
        max_new_tokens=said.get("max_new_tokens"),
        min_length=said.get("min_length", 0),
        min_new_tokens=said.get("min_new_tokens"),
        forced_first=said.get("forced_bos_token_id"),
        forced_last=said.get("forced_eos_token_id", ()),
        bad_words=said.get("bad_words_ids", ()),
        suppressed=said.get("suppress_tokens", ()),
        suppressed_first=said.get("begin_suppress_tokens", ()),
        source_ngram=said.get("encoder_no_repeat_ngram_size", 0),
        source_penalty=said.get("encoder_repetition_penalty", 1.0),
        renormalized=said.get("renormalize_logits", False),
        stop_strings=said.get("stop_strings", ()),
    )


def _sampling(said: Mapping[str, Any], *, draws: bool) -> Sampling:
    rules: dict[str, Any] = {
        "repetition_penalty": said.get("repetition_penalty", 1.0),
        "no_repeat_ngram": said.get("no_repeat_ngram_size") or None,
    }
    if not draws:
        return Sampling(temperature=0.0, **rules)
    return Sampling(
        temperature=said.get("temperature", 1.0),
        top_k=said.get("top_k", TOP_K) or None,
        top_p=said.get("top_p"),
        min_p=said.get("min_p") or None,
        **rules,
    )


def _file(loaded: Loaded) -> tuple[str, dict[str, Any]]:
    """The name of the file that is read, and its fields."""
    content = loaded.origin.files.get(FILE) if loaded.origin else None
    if content is None:
        return CONFIG, {name: loaded.config[name] for name in KNOWN & set(loaded.config)}
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{FILE} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"{FILE} holds a JSON {type(raw).__name__}; expected an object")
    return FILE, raw


def _read(where: str, raw: Mapping[str, Any], vocabulary: int | None) -> dict[str, Any]:
    """The values of the fields that are applied; null is as if a field were not there.

    Raises:
        ConfigError: naming a field that cannot be applied.
    """
    said: dict[str, Any] = {}
    for name, value in raw.items():
        if value is None:
            continue
        if name in APPLIED:
            try:
                said[name] = APPLIED[name](value)
            except _WrongTypeError as wrong:
                raise ConfigError(f"{where}: {name} is {value!r}; expected {wrong}") from None
            _check_ids(where, name, said[name], vocabulary)
        elif not _changes_nothing(name, value, draws=raw.get("do_sample") is True):
            raise ConfigError(
                f"{where}: {name} = {value!r} is not implemented; expected it to be left out"
            )
    return said


def _changes_nothing(name: str, value: Any, *, draws: bool) -> bool:
    if name == "cache_implementation":
        return value != "quantized"  # the others hold the same numbers
    if name in HARMLESS or name.startswith("_") or name.endswith("_token_id"):
        return True
    if name in OF_DRAWING:
        return not draws or value in OF_DRAWING[name]
    if name in REFUSED:
        return value in REFUSED[name]
    return value in (False, "", [], {})


def _check_ids(where: str, name: str, value: Any, vocabulary: int | None) -> None:
    """Refuse ids that the model cannot read or write, where that would be done."""
    if name not in WRITTEN or vocabulary is None:
        return
    ids = value if isinstance(value, tuple) else (value,)
    flat = [i for one in ids for i in (one if isinstance(one, tuple) else (one,))]
    if wrong := [i for i in flat if not 0 <= i < vocabulary]:
        raise ConfigError(
            f"{where}: {name} has the id {wrong[0]}; expected ids of the model's vocabulary, 0 to "
            f"{vocabulary - 1}"
        )


def _vocabulary(loaded: Loaded) -> int | None:
    config = getattr(loaded.model, "config", None)
    sizes = (getattr(config, name, None) for name in ("target_vocab_size", "vocab_size"))
    return next((size for size in sizes if size is not None), None)
