"""What a translator reads and how it writes: inputs that fit the model, and a folder's settings."""

import json
import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from qkv.blocks.positions import LearnedPositions
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.generation.ranking import Beam
from qkv.json_fields import quoted
from qkv.tasks.pretrained import Loaded

# The end of a sentence, where a text that is too long is split.
BETWEEN_SENTENCES = re.compile(r"(?<=[.!?…。！？])\s*(?<=[\s。！？])")
SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class Source:
    """A text as the model reads it.

    Args:
        pieces: ids; one piece, or several of a text that was split.
        length: tokens of the whole text.
        cut: tokens that were left out, of sentences that are too long by themselves.
    """

    pieces: list[list[int]]
    length: int
    cut: int = 0

    def note(self, limit: int | None) -> str:
        """Say what was done to the text, if anything was."""
        done = []
        if len(self.pieces) > 1:
            done.append(f"split into {len(self.pieces)} parts")
        if self.cut:
            done.append(f"{self.cut} tokens of too long a sentence left out")
        if not done:
            return ""
        return f"{self.length} tokens, the model reads {limit} at once: {', '.join(done)}"


def fit_source(text: str, tokenizer: Tokenizer, limit: int | None) -> Source:
    """Encode a text; one of more than `limit` tokens is split at the ends of its sentences.

    A part has as many sentences as fit; of a sentence that alone is too long the rest is cut off.

    Raises:
        DataError: the text is empty.
    """
    if not text.strip():
        raise DataError(f"the text {quoted(text)} is empty; expected one to translate")
    ids = tokenizer.add_special_tokens(tokenizer.encode(text)).ids
    if limit is None or len(ids) <= limit:
        return Source([ids], len(ids))
    around = len(tokenizer.add_special_tokens([]).ids)
    pieces, cut, part = list[list[int]](), 0, ""
    for sentence in [*filter(str.strip, BETWEEN_SENTENCES.split(text)), None]:
        longer = f"{part} {sentence}" if part and sentence else (sentence or part)
        if sentence is not None and len(tokenizer.encode(longer)) + around <= limit:
            part = longer
            continue
        if part:
            encoded = tokenizer.encode(part)
            cut += max(0, len(encoded) + around - limit)
            pieces.append(tokenizer.add_special_tokens(encoded[: limit - around]).ids)
        part = sentence or ""
    return Source(pieces, len(ids), cut)


def read_limit(loaded: Loaded, name: str) -> int | None:
    """The most tokens of an input, special ones included; None where there is no limit.

    Args:
        loaded: model and tokenizer.
        name: to call it in errors.

    Raises:
        ConfigError: the model does not turn one text into another.
    """
    return _limit(loaded, _check(loaded, name))


def _check(loaded: Loaded, name: str) -> Tokenizer:
    model = loaded.model
    writes = all(hasattr(model, part) for part in ("encoder", "decoder", "start", "step"))
    if not writes or isinstance(model.head, nn.Identity) or loaded.tokenizer is None:
        raise ConfigError(
            f"{name} is a {type(model).__name__} with "
            f"{'no' if loaded.tokenizer is None else 'a'} tokenizer; expected a model that turns "
            "one text into another, with encoder, decoder and output layer (qkv train "
            "tatoeba makes one)"
        )
    return loaded.tokenizer


def _limit(loaded: Loaded, tokenizer: Tokenizer) -> int | None:
    """The most tokens that an input may have."""
    said = json.loads(tokenizer.files.get(SETTINGS, b"{}")).get("model_max_length")
    tables = [m.max_length for m in loaded.model.modules() if isinstance(m, LearnedPositions)]
    limits = [said, getattr(loaded.model.config, "n_positions", None), *tables]
    # Files write a huge number where there is no limit.
    return min((int(n) for n in limits if n is not None and n < 10**9), default=None)


def describe(tokenizer: Tokenizer, beam: Beam, max_length: int) -> dict[str, Any]:
    """What config.json should say, that `read_decoding` finds all this again.

    Raises:
        ConfigError: a beam that config.json cannot say.
    """
    if (beam.length_penalty and beam.length_rule != "power") or beam.coverage_penalty:
        raise ConfigError(
            f"a beam with length_rule = {beam.length_rule!r} and coverage_penalty = "
            f"{beam.coverage_penalty} cannot be saved; expected 'power' and 0, for config.json has "
            "no other"
        )
    return {
        "is_encoder_decoder": True,
        "pad_token_id": tokenizer.pad,
        "bos_token_id": tokenizer.start,
        "eos_token_id": tokenizer.stop,
        "decoder_start_token_id": tokenizer.start,
        "forced_eos_token_id": None,
        "max_length": max_length + 1,  # it counts what the decoder begins with
        "num_beams": beam.size,
        "length_penalty": beam.length_penalty,
        "early_stopping": beam.early_stopping,
    }
