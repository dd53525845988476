"""The fields of generation_config.json: each is applied, harmless, or refused."""

from collections.abc import Callable, Mapping
from typing import Any

from qkv.errors import ConfigError
from qkv.generation.decoding import Decoding
from qkv.generation.ranking import Beam
from qkv.generation.sampling import Sampling

TOP_K = 50  # default of transformers when sampling


class _WrongTypeError(Exception):
    """A value of the wrong type; the message says what is expected."""


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
    return value is True  # transformers' false is a third rule, see docs/decoding.md


# Fields that are applied, and how their values are read; null means absent.
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
    "output_no_repeat_ngram_size": _whole(0),  # these two are ours: without output_,
    "output_repetition_penalty": _number,  # transformers also counts the prompt
    "renormalize_logits": _flag,
    "repetition_penalty": _number,
    "stop_strings": _texts,
    "suppress_tokens": _ids,
    "temperature": _number,
    "top_k": _whole(0),
    "top_p": _number,
}
# Further fields that do nothing without `do_sample`; and the values that turn them off.
OF_DRAWING: dict[str, tuple[Any, ...]] = {
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
    "top_h": (),
    "typical_p": (1,),
}
# Fields that change the output and are not implemented; and the values that turn them off.
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
# Fields that change no token: speed, amount of output, padding, and origin of the file.
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


def decoding_of(
    fields: Mapping[str, Any], *, where: str, vocab_size: int | None = None
) -> Decoding:
    """Return the decoding settings of the fields of generation_config.json or config.json.

    Args:
        fields: the fields; null means absent.
        where: name of the file, for error messages.
        vocab_size: size of the model's output vocabulary, to check ids; None: unchecked.

    Raises:
        ConfigError: a field has a wrong type, or a value that is not implemented.
    """
    values = _read(where, fields, vocab_size)
    bos = values.get("bos_token_id") or (None,)
    return Decoding(
        start=values.get("decoder_start_token_id", bos[0]),
        stops=values.get("eos_token_id", ()),
        draws=values.get("do_sample"),
        sampling=_sampling(values),
        beam=Beam(
            size=values.get("num_beams", 1),
            length_penalty=values.get("length_penalty", 1.0),
            length_rule="power",
            early_stopping=values.get("early_stopping", False),
        ),
        max_length=values.get("max_length"),
        max_new_tokens=values.get("max_new_tokens"),
        min_length=values.get("min_length", 0),
        min_new_tokens=values.get("min_new_tokens"),
        forced_first=values.get("forced_bos_token_id"),
        forced_last=values.get("forced_eos_token_id", ()),
        bad_words=values.get("bad_words_ids", ()),
        suppressed=values.get("suppress_tokens", ()),
        suppressed_first=values.get("begin_suppress_tokens", ()),
        source_ngram=values.get("encoder_no_repeat_ngram_size", 0),
        source_penalty=values.get("encoder_repetition_penalty", 1.0),
        output_ngram=values.get("output_no_repeat_ngram_size", 0),
        output_penalty=values.get("output_repetition_penalty", 1.0),
        renormalized=values.get("renormalize_logits", False),
        stop_strings=values.get("stop_strings", ()),
    )


def _sampling(values: Mapping[str, Any]) -> Sampling:
    rules: dict[str, Any] = {
        "repetition_penalty": values.get("repetition_penalty", 1.0),
        "no_repeat_ngram": values.get("no_repeat_ngram_size") or None,
    }
    if not values.get("do_sample"):
        return Sampling(temperature=0.0, **rules)
    return Sampling(
        temperature=values.get("temperature", 1.0),
        top_k=values.get("top_k", TOP_K) or None,
        top_p=values.get("top_p"),
        min_p=values.get("min_p") or None,
        **rules,
    )


def _read(where: str, raw: Mapping[str, Any], vocabulary: int | None) -> dict[str, Any]:
    """Return the values of the fields that are applied; null means absent.

    Raises:
        ConfigError: naming a field that cannot be applied.
    """
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if value is None:
            continue
        if name in APPLIED:
            try:
                values[name] = APPLIED[name](value)
            except _WrongTypeError as wrong:
                raise ConfigError(f"{where}: {name} is {value!r}; expected {wrong}") from None
            _check_ids(where, name, values[name], vocabulary)
        elif not _changes_nothing(name, value, draws=raw.get("do_sample") is True):
            raise ConfigError(
                f"{where}: {name} = {value!r} is not implemented; expected it to be left out"
            )
    return values


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
    """Refuse ids outside the vocabulary in the fields of `WRITTEN`."""
    if name not in WRITTEN or vocabulary is None:
        return
    ids = value if isinstance(value, tuple) else (value,)
    flat = [i for one in ids for i in (one if isinstance(one, tuple) else (one,))]
    if wrong := [i for i in flat if not 0 <= i < vocabulary]:
        raise ConfigError(
            f"{where}: {name} has the id {wrong[0]}; expected ids of the model's vocabulary, 0 to "
            f"{vocabulary - 1}"
        )
