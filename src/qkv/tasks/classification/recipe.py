"""`qkv train classify`: fine-tune a pretrained encoder on texts with classes."""

from collections import Counter
from functools import partial
from pathlib import Path

from torch import nn

from qkv.data.batches import Batches
from qkv.data.classification import (
    ClassificationBatch,
    EncodedTexts,
    classification_batches,
)
from qkv.data.labels import PairExample, seconds_of
from qkv.tasks.classes import accuracy_line, classes_line
from qkv.tasks.classification.classifier import TextClassifier
from qkv.tasks.classification.data import TextParts, Texts
from qkv.tasks.finetuning import FineTuning, check_base, fine_tune, keep_adapter
from qkv.tasks.pretrained import save
from qkv.tasks.recipe import Place, Training, begin, count, finish
from qkv.training.classification import classification_loss
from qkv.training.history import History

TEXTS = Texts()
FINETUNING = FineTuning()
# Devlin et al. 2019, appendix A.3: their rates, a batch of 32 texts, 2 to 4 epochs.
TRAINING = Training(
    epochs=4.0,
    batch_size=32,
    learning_rate=1e-4,
    schedule="linear",
    betas=(0.9, 0.999),
)


def train_classifier(
    *,
    output: Path,
    base: str = "all-MiniLM-L6-v2",
    data: Texts = TEXTS,
    finetuning: FineTuning = FINETUNING,
    training: Training = TRAINING,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Fine-tune an encoder to classify texts, score it, and save it in the Hugging Face layout.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped.
        base: a pretrained encoder: a folder, a name of the zoo, an id of the Hub.
        data: texts and their classes.
        finetuning: what of the model trains.
        training: how long and how fast.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.
    """
    check_base(base, output)
    parts = data.parts()
    recipe = {"base": base, "data": data, "finetuning": finetuning, "training": training}
    recipe["checksum of the texts"] = parts.checksum
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    classifier = TextClassifier.fresh(
        base,
        parts.labels,
        max_length=data.max_length,
        pairs=data.second is not None or isinstance(parts.train[0], PairExample),
        pretrained=finetuning.train != "scratch",
    )
    parameters = count(classifier.model)
    history, trained = _fit(classifier, parts, finetuning, training, place, device)
    keep_adapter(classifier.loaded, base, place)
    sizes = {
        "texts to learn from": len(parts.train),
        "parameters": parameters,
        "trained parameters": trained,
        "seconds of training": round(history.seconds, 1),
    }
    finish(
        place,
        classifier.evaluate,
        parts.validation,
        parts.test,
        save=partial(save, classifier.loaded),
        about=sizes,
        line=partial(accuracy_line, unit="texts"),
        hint="qkv classify --model {} 'a text'",
    )


def _fit(
    classifier: TextClassifier,
    parts: TextParts,
    finetuning: FineTuning,
    training: Training,
    place: Place,
    device: str,
) -> tuple[History, int]:
    """Train, once it is said what; the history, and how many parameters trained."""
    model = classifier.model
    texts = classifier.encode([one.text for one in parts.train], seconds_of(parts.train))
    batches = _batches(classifier, parts, texts, training)
    _say_texts(parts, texts, place)
    return fine_tune(
        model,
        batches,
        partial(classification_loss, smoothing=training.smoothing),
        finetuning,
        training,
        place,
        lengths=[len(ids) for ids in texts.ids],
        evaluate=partial(_evaluate, classifier, parts),
        metric="accuracy",
        unit="texts",
        device=device,
    )


def _batches(
    classifier: TextClassifier, parts: TextParts, texts: EncodedTexts, training: Training
) -> Batches[ClassificationBatch]:
    """Batches without end."""
    return classification_batches(
        texts,
        [parts.labels.number(one.label) for one in parts.train],
        pad=classifier.tokenizer.filler,
        batching=training.batching(),
    )


def _evaluate(classifier: TextClassifier, parts: TextParts, _: nn.Module) -> dict[str, float]:
    scores = classifier.evaluate(parts.validation)
    return {"accuracy": scores.accuracy, "macro F1": scores.macro_f1, "loss": scores.loss}


def _say_texts(parts: TextParts, texts: EncodedTexts, place: Place) -> None:
    """Say what there is to learn from."""
    counts = Counter(parts.labels.number(example.label) for example in parts.train)
    place.console.print(classes_line(parts.labels, counts))
    place.console.print(f"to learn from: {texts}")
    place.console.print(
        f"to choose the best weights by: {len(parts.validation):,} texts; to test: "
        f"{len(parts.test):,}"
    )
