"""`qkv train summarize_docstrings`: train a decoder that summarizes."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from qkv.data.batches import Batches
from qkv.data.summaries import Summarized
from qkv.data.summary_batches import SummaryBatch, summary_batches
from qkv.errors import ConfigError
from qkv.evaluation.summarization import SummaryScores
from qkv.models.modes import evaluating
from qkv.tasks.console import show_table
from qkv.tasks.finetuning import check_base
from qkv.tasks.inputs import pick_device
from qkv.tasks.pretrained import save
from qkv.tasks.recipe import Place, Training, begin, count, finish, run_training, timed
from qkv.tasks.summarization.data import Summaries, SummaryParts
from qkv.tasks.summarization.model import DECODER, Decoder, frozen_features, write_decoder
from qkv.tasks.summarization.summarizer import WRITING, Summarizer, Writing
from qkv.training.history import History
from qkv.training.losses import summary_loss
from qkv.training.report import describe_training

SUMMARIES = Summaries()
TRAINING = Training(epochs=8.0, max_tokens=4_000, learning_rate=1e-3, warmup=0.05)
# Of validation texts: the likelihood of how many is watched, and how many choose the penalty.
WATCHED, CHOOSING = 1_000, 300
PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0)


def train_summarizer(
    *,
    output: Path,
    base: str = "all-MiniLM-L6-v2",
    data: Summaries = SUMMARIES,
    decoder: Decoder = DECODER,
    writing: Writing = WRITING,
    training: Training = TRAINING,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Train a decoder that summarizes on a frozen encoder, score it, and save both.

    The best weights are those under which the validation summaries are the likeliest; the length
    penalty is the one with the highest ROUGE on some of them.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped, and the decoder by itself, in float16.
        base: a pretrained BERT: a folder, a name of the zoo, an id of the Hub.
        data: texts and their summaries.
        decoder: its size.
        writing: of summaries.
        training: how long and how fast; batches are given by their tokens.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.

    Raises:
        ConfigError: the output is the base, or the training asks for what there is not.
    """
    _check(output, base, training)
    parts = data.parts()
    recipe = {
        "base": base,
        "data": data,
        "decoder": decoder,
        "writing": writing,
        "training": training,
        "checksum of the texts": parts.checksum,
    }
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    summarizer = Summarizer.fresh(base, writing, decoder)
    history = _fit(summarizer, parts, training, place, device)
    trained = sum(p.numel() for p in summarizer.model.parameters() if p.requires_grad)
    sizes = {
        "texts to learn from": len(parts.train),
        "parameters": count(summarizer.model),
        "trained parameters": trained,
        "seconds of training": round(history.seconds, 1),
    }
    summarizer = choose_penalty(summarizer, parts.validation[:CHOOSING]).noted()
    finish(
        place,
        summarizer.evaluate,
        parts.validation[:CHOOSING],
        parts.test,
        save=partial(_save, summarizer, place),
        about={"length penalty": summarizer.writing.length_penalty, **sizes},
        line=say,
        hint="qkv summarize --model {} 'a text'",
    )


def _check(output: Path, base: str, training: Training) -> None:
    check_base(base, output)
    if training.smoothing:
        raise ConfigError(
            f"training.smoothing = {training.smoothing}; expected 0: a mixture of writing and "
            "copying is not smoothed"
        )
    if training.max_tokens is None:
        raise ConfigError(
            f"training.batch_size = {training.batch_size}; expected training.max_tokens in its "
            "place: texts differ much in length"
        )


def _fit(
    summarizer: Summarizer, parts: SummaryParts, training: Training, place: Place, device: str
) -> History:
    """Train, once it is said what."""
    model = summarizer.model
    optimizer = training.optimizer(model, eps=1e-8)
    place.console.print(
        f"to learn from: {len(parts.train):,} texts; to choose the best weights by: "
        f"{min(WATCHED, len(parts.validation)):,} of {len(parts.validation):,}; to test: "
        f"{len(parts.test):,}"
    )
    before = time.perf_counter()
    batches = _batches(summarizer, parts.train, training, device, epochs=None)
    watched = _batches(summarizer, parts.validation[:WATCHED], training, device, epochs=1)
    held_out = list(watched)
    place.console.print(f"the encoder has read all texts after {timed(before)} seconds")
    length = summarizer.writing.max_source
    rows = max(1, (training.max_tokens or 0) // length)
    for title, table in describe_training(model, optimizer, rows=rows, length=length).items():
        show_table(title, table)
    place.console.print(
        f"{training.n_steps(batches):,} steps, about {training.steps_per_epoch(batches):,} an "
        f"epoch -> {place.output}"
    )
    return run_training(
        model,
        batches,
        summary_loss,
        training,
        place,
        evaluate=partial(_likelihood, batches=held_out),
        metric="log-likelihood of a token",
        optimizer=optimizer,
        device=device,
    )


def _likelihood(model: nn.Module, *, batches: Sequence[SummaryBatch]) -> dict[str, float]:
    device = next(model.parameters()).device
    with evaluating(model), torch.inference_mode():
        total = sum(float(summary_loss(model, batch.to(device))) for batch in batches)
    return {"log-likelihood of a token": -total / sum(batch.n_targets for batch in batches)}


def _batches(
    summarizer: Summarizer,
    examples: Sequence[Summarized],
    training: Training,
    device: str,
    *,
    epochs: int | None,
) -> Batches[SummaryBatch]:
    """Batches of what the encoder says of the texts, and of their first summaries."""
    tokenizer, longest = summarizer.tokenizer, summarizer.writing.max_length
    sources = summarizer.encode([one.text for one in examples])
    summaries = tokenizer.encode_batch([one.summaries[0] for one in examples])
    return summary_batches(
        frozen_features(summarizer.model, sources, pad=tokenizer.pad, device=pick_device(device)),
        sources,
        [[*ids[: longest - 1], tokenizer.stop] for ids in summaries],
        pad=tokenizer.pad,
        start=tokenizer.start,
        batching=replace(training.batching(), epochs=epochs),
    )


def choose_penalty(summarizer: Summarizer, examples: Sequence[Summarized]) -> Summarizer:
    """Take the length penalty under which ROUGE-1, 2 and L have the highest geometric mean.

    Compared with the first summary of each text, which is what the model learned to write: against
    the best of several, a word or two that one of them has would do. In a geometric mean a tenth
    more of ROUGE-2, which is low and which single words do not raise, weighs as much as of ROUGE-1.
    """
    learned = [one._replace(summaries=one.summaries[:1]) for one in examples]

    def rouge(penalty: float) -> float:
        writing = replace(summarizer.writing, length_penalty=penalty)
        scores = replace(summarizer, writing=writing).evaluate(learned)
        return scores.rouge1.f1 * scores.rouge2.f1 * scores.rouge_l.f1

    best = max(PENALTIES, key=rouge)
    return replace(summarizer, writing=replace(summarizer.writing, length_penalty=best))


def _save(summarizer: Summarizer, place: Place, folder: Path) -> None:
    """The whole model, and beside the run the decoder alone, which is small."""
    save(summarizer.loaded, folder)
    write_decoder(folder, place.kept / "decoder")
    place.console.print(f"the decoder alone: {place.kept / 'decoder'}")


def say(scores: SummaryScores) -> str:
    """The scores in a line."""
    kinds = {"ROUGE-1": scores.rouge1, "ROUGE-2": scores.rouge2, "ROUGE-L": scores.rouge_l}
    said = ", ".join(f"{name} {score.f1:.1f}" for name, score in kinds.items())
    by_first = scores.by_first and f"; by the first reference alone {say(scores.by_first)}"
    return f"{said} of {scores.count:,} texts{by_first or ''}"
