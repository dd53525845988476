"""`qkv train multi30k`: a translator from scratch, with one vocabulary."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from qkv.blocks.config import FeedForwardKind
from qkv.data.batches import Batches, PairBatch
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.evaluation.translation import TranslationScores
from qkv.generation.ranking import Beam
from qkv.models.marian import Marian, MarianConfig
from qkv.tasks.recipe import Place, Training, begin, count, finish, run_training
from qkv.tasks.translation.data import PairParts, TextPair, Translations, evenly
from qkv.tasks.translation.inputs import describe
from qkv.tasks.translation.search import BEAM
from qkv.tasks.translation.translator import Translator
from qkv.training.losses import pair_loss

TRANSLATIONS = Translations()
TRAINING = Training(steps=10_000, max_tokens=4_000, smoothing=0.1, evaluate_every=1_000)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a Transformer that learns from scratch; its vocabulary comes from the data.

    Args:
        d_model: width of the stream.
        n_heads: heads of each attention.
        d_ff: width inside the feed-forward networks.
        n_encoder_layers: blocks of the encoder.
        n_decoder_layers: blocks of the decoder.
        feed_forward: the activation, or the gated kind.
        dropout: share of what each sublayer adds that is dropped.
        attention_dropout: share of the attention weights that is dropped.
    """

    d_model: int = 512
    n_heads: int = 8
    d_ff: int = 2048
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    feed_forward: FeedForwardKind = "silu"
    dropout: float = 0.1
    attention_dropout: float = 0.0


SIZES = Sizes()


def train_translator(
    *,
    output: Path,
    data: Translations = TRANSLATIONS,
    model: Sizes = SIZES,
    training: Training = TRAINING,
    beam: Beam = BEAM,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Train a Transformer to translate, score it on the test part, and save it in a folder.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped.
        data: sentences and their translations.
        model: the sizes of the Transformer.
        training: how long and how fast.
        beam: how the model searches, in each evaluation on the validation data, too.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.
    """
    if training.max_tokens is None:
        raise ConfigError(
            f"training.batch_size = {training.batch_size}: sentences are batched by tokens; "
            "expected training.max_tokens"
        )
    parts = data.parts()
    validation = evenly(parts.validation, data.validation_limit)
    recipe = {"data": data, "model": model, "training": training, "beam": beam}
    recipe["checksum of the sentences"] = parts.checksum
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    translator, train = _prepare(data, model, parts)
    translator = replace(translator, beam=beam)
    describe(translator.target, beam, data.max_length)  # refuses before the training, not after
    parameters = count(translator.model)
    place.console.print(
        f"{len(train):,} pairs to learn from ({len(parts.train) - len(train):,} longer than "
        f"{data.max_length} tokens left out), {len(validation):,} to validate, "
        f"{len(parts.test):,} to test; {parameters:,} parameters -> {place.output}"
    )
    history = _fit(translator, train, validation, training, place, device)
    sizes = {
        "pairs to learn from": len(train),
        "parameters": parameters,
        "seconds of training": round(history.seconds, 1),
    }
    finish(
        place,
        translator.evaluate,
        validation,
        parts.test,
        save=translator.save,
        about=sizes,
        line=say,
        hint="qkv translate --model {} 'a sentence'",
    )


def _prepare(
    data: Translations, model: Sizes, parts: PairParts
) -> tuple[Translator, Sequence[TextPair]]:
    """A tokenizer of the training sentences, a new model, and the pairs that are not too long."""
    tokenizer = Tokenizer.train_bpe(
        (text for pair in parts.train for text in pair), data.vocab_size, lowercase=data.lowercase
    )
    size = tokenizer.vocab_size
    config = MarianConfig(
        source_vocab_size=size,
        target_vocab_size=size,
        n_positions=data.max_length,
        **asdict(model),
    )
    lengths = [
        [len(ids) for ids in tokenizer.encode_batch(side)]
        for side in zip(*parts.train, strict=True)
    ]
    kept = [
        pair
        for pair, *sides in zip(parts.train, *lengths, strict=True)
        if max(sides) < data.max_length  # and a token for the start, or the end
    ]
    if not kept:
        raise DataError(
            f"data.max_length = {data.max_length} tokens leaves no pair to learn from; expected "
            "more: raise it"
        )
    translator = Translator(
        Marian(config), tokenizer, tokenizer, data.max_length, limit=data.max_length
    )
    return translator, kept


def _fit(
    translator: Translator,
    train: Sequence[TextPair],
    validation: Sequence[TextPair],
    training: Training,
    place: Place,
    device: str,
) -> Any:
    batches: Batches[PairBatch] = translator.batches(
        train, max_tokens=training.max_tokens, seed=training.seed
    )
    place.console.print(f"{training.steps_per_epoch(batches):,} steps an epoch")

    def evaluate(_: nn.Module) -> dict[str, float]:
        scores = translator.evaluate(validation, samples=2)
        # What writes in lower case gets little by the first.
        named = {"BLEU": scores.bleu, "lower-cased": scores.bleu_lowercase, "chrF": scores.chrf}
        return {name: one.score for name, one in named.items()}

    return run_training(
        translator.model,
        batches,
        partial(pair_loss, smoothing=training.smoothing),
        training,
        place,
        evaluate=evaluate,
        metric="chrF",  # BLEU is 0 where no text has four words
        optimizer=training.optimizer(translator.model),
        device=device,
    )


def say(scores: TranslationScores) -> str:
    """The scores in a line."""
    return (
        f"BLEU {scores.bleu.score:.2f}, lower-cased {scores.bleu_lowercase.score:.2f}, chrF "
        f"{scores.chrf.score:.2f} of {scores.count:,} texts"
    )
