"""`qkv train qamr`: fine-tune a pretrained encoder to find answers in passages."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import nn

from qkv.data.questions import Question
from qkv.data.windows import NO_ANSWER, Window, make_windows, span_batches
from qkv.errors import ConfigError, DataError
from qkv.evaluation.questions import AnswerScores
from qkv.tasks.answering.answerer import READING, Answerer
from qkv.tasks.answering.data import QuestionParts, Questions
from qkv.tasks.answering.search import Reading, tells_texts_apart
from qkv.tasks.finetuning import FineTuning, check_base, fine_tune, keep_adapter
from qkv.tasks.pretrained import save
from qkv.tasks.recipe import Place, Training, begin, count, finish
from qkv.training.history import History
from qkv.training.spans import span_loss

QUESTIONS = Questions()
FINETUNING = FineTuning()
# Devlin et al. 2019, section 4.2: batches of 32, three epochs, here at a small model's rate.
TRAINING = Training(
    epochs=3.0,
    batch_size=32,
    learning_rate=2e-4,
    schedule="linear",
    betas=(0.9, 0.999),
)


def train_answerer(
    *,
    output: Path,
    base: str = "all-MiniLM-L6-v2",
    data: Questions = QUESTIONS,
    reading: Reading = READING,
    finetuning: FineTuning = FINETUNING,
    training: Training = TRAINING,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Fine-tune an encoder to find answers, score it, and save it in the Hugging Face layout.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped.
        base: a pretrained encoder: a folder, a name of the zoo, an id of the Hub.
        data: questions with passages and answers.
        reading: how passages are cut into windows. Its threshold is chosen on validation questions
            where some of them have no answer.
        finetuning: what of the model trains.
        training: how long and how fast.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.

    Raises:
        ConfigError: the output is the base, or labels are to be smoothed.
        DataError: no question can be learned from.
    """
    check_base(base, output)
    if training.smoothing:
        raise ConfigError(
            f"training.smoothing = {training.smoothing}; expected 0: the places of an answer are "
            "not smoothed"
        )
    parts = data.parts()
    recipe = {
        "base": base,
        "data": data,
        "reading": reading,
        "finetuning": finetuning,
        "training": training,
        "checksum of the questions": parts.checksum,
    }
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    answerer = Answerer.fresh(base, reading, pretrained=finetuning.train != "scratch")
    parameters = count(answerer.model)
    history, trained = _fit(answerer, parts, finetuning, training, place, device)
    keep_adapter(answerer.loaded, base, place)
    answerer = answerer.with_threshold(parts.validation)
    sizes = {
        "questions to learn from": len(parts.train),
        "parameters": parameters,
        "trained parameters": trained,
        "seconds of training": round(history.seconds, 1),
    }
    finish(
        place,
        answerer.evaluate,
        parts.validation,
        parts.test,
        save=partial(save, answerer.loaded),
        about={"threshold": answerer.reading.threshold, **sizes},
        line=say,
        hint="qkv answer --model {} --context 'a passage' 'a question?'",
    )


def learnable(
    answerer: Answerer, questions: Sequence[Question]
) -> tuple[list[Window], list[tuple[int, int]]]:
    """The windows to learn from, and the places of the answer in each.

    A window that does not hold the whole answer has none. Questions whose every answer is no span
    are left out: their passage does tell.

    Raises:
        DataError: none is left.
    """
    kept = [one for one in questions if one.span is not None or not one.answers]
    if not kept:
        raise DataError(
            f"none of {len(questions)} questions has an answer that stands in its passage; "
            "expected words of the passage (are the columns the right ones?)"
        )
    windows = make_windows(
        answerer.tokenizer,
        [one.question for one in kept],
        [one.context for one in kept],
        max_length=answerer.reading.max_length,
        stride=answerer.reading.stride,
    )
    spans = []
    for window in windows:
        answer = kept[window.row].span
        if answer is None or answer.start is None:
            spans.append(NO_ANSWER)
        else:
            end = answer.start + len(answer.text)
            spans.append(window.places(answer.start, end) or NO_ANSWER)
    return windows, spans


def _fit(
    answerer: Answerer,
    parts: QuestionParts,
    finetuning: FineTuning,
    training: Training,
    place: Place,
    device: str,
) -> tuple[History, int]:
    """Train, once it is said what; the history, and how many parameters trained."""
    model = answerer.model
    windows, spans = learnable(answerer, parts.train)
    batches = span_batches(
        windows,
        spans,
        pad=answerer.tokenizer.filler,
        segments=tells_texts_apart(answerer.model),
        batching=training.batching(),
    )
    _say(parts, windows, spans, place)
    return fine_tune(
        model,
        batches,
        span_loss,
        finetuning,
        training,
        place,
        lengths=[len(window.ids) for window in windows],
        evaluate=partial(_evaluate, answerer, parts),
        metric="F1",
        unit="questions",
        device=device,
    )


def _evaluate(answerer: Answerer, parts: QuestionParts, _: nn.Module) -> dict[str, float]:
    scores = answerer.with_threshold(parts.validation).evaluate(parts.validation)
    return {"F1": scores.f1, "exact match": scores.exact_match}


def _say(
    parts: QuestionParts,
    windows: Sequence[Window],
    spans: Sequence[tuple[int, int]],
    place: Place,
) -> None:
    """Say what there is to learn from."""
    asked = len({window.row for window in windows})
    place.console.print(
        f"to learn from: {asked:,} of {len(parts.train):,} questions (of the others no answer "
        f"stands in the passage) in {len(windows):,} windows, {spans.count(NO_ANSWER):,} of them "
        f"without the answer; the longest has {max(len(one.ids) for one in windows)} tokens"
    )
    place.console.print(
        f"to choose the best weights by: {len(parts.validation):,} questions; to test: "
        f"{len(parts.test):,}"
    )


def say(scores: AnswerScores) -> str:
    """The scores in a line."""
    low, high = scores.f1_interval
    return (
        f"F1 {scores.f1:.1f} (95 %: {low:.1f} to {high:.1f}), exact match "
        f"{scores.exact_match:.1f} of {scores.count:,} questions"
    )
