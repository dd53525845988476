"""What a family is to a checkpoint: its config's fields, its architectures and their tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qkv.checkpoints.table import Row, listed
from qkv.errors import ConfigError, DataError

REQUIRED = object()

# Shares of what is dropped in training: no number of a loaded model depends on them. Where one is
# no field of a family, training drops nothing for it.
TRAINING_ONLY = frozenset(
    [
        "activation_dropout",
        "attention_dropout",
        "classif_dropout",
        "classifier_dropout",
        "decoder_layerdrop",
        "encoder_layerdrop",
        "layerdrop",
    ]
)

# What every config.json may say and no number depends on.
HARMLESS = TRAINING_ONLY | frozenset(
    """
    _attn_implementation _commit_hash _name_or_path architectures attn_implementation
    bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range
    is_encoder_decoder label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_scores pad_token_id prefix
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
    """.split()  # noqa: SIM905 - sixty lines of quotes would hide them
)

# Refused in every family, unless they say that nothing is special.
ONLY: dict[str, Any] = {"pruned_heads": {}}


@dataclass(frozen=True)
class Field:
    """A field of config.json and the field of our config that it becomes.

    Args:
        theirs: its name in config.json.
        ours: its name in our config.
        default: what its absence means; without one the file must say it.
        values: theirs to ours where the spelling differs; others are refused.
        decode: theirs to ours where that is a computation.
        encode: the way back.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    values: Mapping[Any, Any] | None = None
    decode: Callable[[Any], Any] = lambda value: value
    encode: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model of a family: what config.json calls it, how it is built, and its table.

    Args:
        name: in the `architectures` of config.json.
        model: the class that `build` returns.
        build: makes it of our config and a number of classes, which most have no use for.
        rows: its table; names of the base model begin with the family's prefix.
        changes: to the config, where config.json does not say them (a model without its pooler).
        base: whether this is the base model, whose own files have no prefix.
        prefix: before the names of the base model, where it is another than the family's.
    """

    name: str
    model: type[nn.Module]
    build: Callable[[Any, int], nn.Module]
    rows: Callable[[Any], Sequence[Row]]
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: bool = False
    prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that loading and saving ask about a `model_type`.

    Args:
        model_type: in config.json.
        config: our config's class.
        fields: of config.json.
        only: fields of which one value is implemented; others are refused by name.
        harmless: further fields on which no number depends.
        architectures: the first is built where config.json names none.
        prefix: before the names of the base model in the file of a model with a head.
        spellings: old pieces of tensor names and the table's.
        normalize: brings an older or newer config.json into the form of `fields`.
    """

    model_type: str
    config: type
    fields: Sequence[Field]
    only: Mapping[str, Any] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    architectures: Sequence[Architecture]
    prefix: str = ""
    spellings: Sequence[tuple[str, str]] = ()
    normalize: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def architecture(self, name: str | None) -> Architecture:
        """Return the architecture of this name; the first where None is given.

        Raises:
            ConfigError: if the family has none of this name.
        """
        if name is None:
            return self.architectures[0]
        for one in self.architectures:
            if one.name == name:
                return one
        raise ConfigError(
            f"architecture {name!r} of {self.model_type} is not implemented; expected one of "
            f"{', '.join(one.name for one in self.architectures)}"
        )

    def read_config(self, raw: Mapping[str, Any], architecture: Architecture) -> Any:
        """Turn config.json into our config.

        Raises:
            ConfigError: on a field or a value that is not implemented.
            DataError: if a field is missing that has no default.
        """
        raw = self.normalize(dict(raw))
        only = {**ONLY, **self.only}
        for name, value in only.items():
            if raw.get(name, value) != value:
                raise ConfigError(
                    f"{name} = {raw[name]!r} is not implemented for {self.model_type}; "
                    f"expected {value!r}"
                )
        known = HARMLESS | self.harmless | only.keys() | {one.theirs for one in self.fields}
        if unknown := sorted(raw.keys() - known):
            said = [f"{name} = {raw[name]!r}" for name in unknown]
            raise ConfigError(
                f"{listed(said)}: not known for {self.model_type}, so the numbers could differ "
                "from those of the model's authors; take it out of config.json if it is harmless"
            )
        ours = {one.ours: self._decode(one, raw) for one in self.fields}
        return self.config(**{**ours, **architecture.changes})

    def write_config(self, config: Any) -> dict[str, Any]:
        """Turn our config into the fields of config.json."""
        raw = {"model_type": self.model_type, **self.only}
        for one in self.fields:
            value = getattr(config, one.ours)
            if one.values is not None:
                value = next(theirs for theirs, ours in one.values.items() if ours == value)
            raw[one.theirs] = one.encode(value)
        return raw

    def _decode(self, one: Field, raw: Mapping[str, Any]) -> Any:
        value = raw.get(one.theirs, one.default)
        if value is REQUIRED:
            raise DataError(f"{one.theirs} is missing; {self.model_type} has no default for it")
        if one.values is None:
            if isinstance(one.default, int | float | str) and not _alike(value, one.default):
                raise ConfigError(
                    f"{one.theirs} = {value!r}; expected {type(one.default).__name__}, such as "
                    f"{one.default!r}"
                )
            return one.decode(float(value) if isinstance(one.default, float) else value)
        if value not in one.values:
            raise ConfigError(
                f"{one.theirs} = {value!r} is not implemented for {self.model_type}; expected one "
                f"of {', '.join(map(repr, one.values))}"
            )
        return one.values[value]


def _alike(value: Any, default: Any) -> bool:
    """Tell whether a value has the type of a default; a whole number may stand for a float."""
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))
