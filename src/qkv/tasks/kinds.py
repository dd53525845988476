"""The tasks: what each is called, and which models it is for."""

import os
from typing import Any, Literal

import torch

from qkv.checkpoints.building import named_architecture
from qkv.checkpoints.reader import CONFIG
from qkv.checkpoints.registry import family_of
from qkv.errors import ConfigError
from qkv.files import whole_folder
from qkv.json_fields import read_json
from qkv.models.causal import CausalLM
from qkv.models.encoder_decoder import EncoderDecoder
from qkv.models.heads import QuestionAnswering, SequenceClassifier
from qkv.models.pointer_generator import PointerGenerator
from qkv.models.rnn import RNNSeq2Seq
from qkv.models.vit import DistilledClassifier
from qkv.tasks.answering.answerer import Answerer
from qkv.tasks.answering.command import DEFAULT as ANSWERER
from qkv.tasks.classification.classifier import TextClassifier
from qkv.tasks.classification.command import DEFAULT as CLASSIFIER
from qkv.tasks.generation.command import DEFAULT as GENERATOR
from qkv.tasks.generation.generator import Generator
from qkv.tasks.images.command import DEFAULT as RECOGNIZER
from qkv.tasks.images.recognizer import Recognizer
from qkv.tasks.pretrained import Loaded, locate
from qkv.tasks.summarization.command import DEFAULT as SUMMARIZER
from qkv.tasks.summarization.summarizer import Summarizer
from qkv.tasks.translation.command import DEFAULT as TRANSLATOR
from qkv.tasks.translation.translator import Translator

Name = Literal["translate", "summarize", "answer", "classify", "generate", "recognize"]
Task = Translator | Summarizer | Answerer | TextClassifier | Generator | Recognizer

TASKS: dict[str, type[Task]] = {
    "translate": Translator,
    "summarize": Summarizer,
    "answer": Answerer,
    "classify": TextClassifier,
    "generate": Generator,
    "recognize": Recognizer,
}
DEFAULTS = {
    "translate": TRANSLATOR,
    "summarize": SUMMARIZER,
    "answer": ANSWERER,
    "classify": CLASSIFIER,
    "generate": GENERATOR,
    "recognize": RECOGNIZER,
}
MODELS: dict[type, str] = {
    QuestionAnswering: "answer",
    SequenceClassifier: "classify",
    DistilledClassifier: "recognize",
    PointerGenerator: "summarize",
    EncoderDecoder: "translate",
    RNNSeq2Seq: "translate",
    CausalLM: "generate",
}


def task(
    name: str,
    model: Loaded | str | os.PathLike[str] | None = None,
    *,
    device: torch.device | str | None = None,
    allow_download: bool = False,
) -> Task:
    """A function of a string or a list of them, such as a translator; a path is a string, too.

    Args:
        name: "translate", "summarize", "answer", "classify", "generate" or "recognize".
        model: what `qkv.load` returned, or reads; the zoo's where None.
        device: of a model that is read.
        allow_download: whether the Hub may be asked for a base that a file of the model names.

    Raises:
        ConfigError: there is no such task, or the model is of another kind.
        DataError: there is no such model.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; expected one of {', '.join(TASKS)}")
    if isinstance(model, Loaded):
        return TASKS[name].of(model)
    return TASKS[name].load(
        DEFAULTS[name] if model is None else model, device=device, allow_download=allow_download
    )


def task_of(model: str) -> str:
    """The task that a model was made for, by its config.json.

    Raises:
        ConfigError: none of the tasks.
        DataError: there is no such model.
    """
    raw: dict[str, Any] = read_json(whole_folder(locate(model)) / CONFIG)
    family = family_of(raw.get("model_type"))
    kind = family.architecture(named_architecture(raw)).model
    of_images = hasattr(family.config, "n_channels")
    for one, name in MODELS.items():
        if issubclass(kind, one):
            return "recognize" if of_images and name == "classify" else name
    raise ConfigError(
        f"{model} is a {kind.__name__}, which is made for none of the tasks: {', '.join(TASKS)}"
    )
