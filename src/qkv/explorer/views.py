"""The explorer's view of each task: sequences, predictions, and the pass that computes them.

Shapes: R rows (copies of the input), S steps (predictions), V candidates, L tokens, D d_model.
"""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.data.images import pillow_modules
from qkv.data.windows import make_windows
from qkv.errors import ConfigError, DataError
from qkv.explorer.view import Step, Told, View, closing_norm, labeled
from qkv.explorer.writing import view_generation, view_summary, view_translation
from qkv.models.vit import grid, pair
from qkv.tasks.pipeline import check_strings, tells_texts_apart
from qkv.tasks.tagging import WORD


def view_classification(classifier: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a text, or a pair of texts, and its classes."""
    if not hasattr(classifier, "several"):
        raise ConfigError("a classifier with --labels; expected one that was trained")
    seconds = [inputs["second"]] if "second" in inputs else None
    encoded = classifier.encode([inputs["text"]], seconds)
    prediction = classifier.predict([inputs["text"]], seconds)[0]
    model, names, several = classifier.model, classifier.labels.names, classifier.several
    ids, device = encoded.ids[0], classifier.device
    parts = None if encoded.segments is None else encoded.segments[0]

    def decide(x: Float[Tensor, "R C"]) -> Float[Tensor, "R S V"]:
        return torch.stack((torch.zeros_like(x), x), -1) if several else x[:, None]

    def logits(rows: int) -> Tensor:
        tokens = torch.tensor([ids] * rows, device=device)
        segments = None if parts is None else torch.tensor([parts] * rows, device=device)
        return decide(model(tokens, segments=segments))

    norm, everything = closing_norm(model), torch.ones(1, len(ids), device=device).bool()
    chosen = [names.index(one) for one in prediction.label.split("|") if one in names]
    if several:
        steps = [Step(one, "source", 0, int(i in chosen)) for i, one in enumerate(names)]
    else:
        steps = [Step("class", "source", 0, chosen[0])]
    if getattr(model, "pool", "") == "last":
        steps = [replace(step, position=len(ids) - 1) for step in steps]
    return View(
        kind="classify",
        inputs=dict(inputs),
        output=prediction.label,
        note=encoded.note(0),
        sequences={"source": labeled(classifier.tokenizer, ids)},
        steps=steps,
        candidates="classes",
        name=["no", "yes"].__getitem__ if several else names.__getitem__,
        logits=logits,
        read=None
        if getattr(model, "end", None) is not None
        else lambda states: decide(model.score(norm(states)[None], everything))[0],
    )


def view_answer(answerer: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a question with the window of its passage that contains the answer."""
    question, context = inputs["text"], inputs.get("context", "")
    if not context.strip():
        raise DataError("a question without a passage; expected --context TEXT")
    found = answerer.predict([question], context)[0]
    config, best = answerer.windows, found.n_best[0]
    windows = make_windows(
        answerer.tokenizer,
        [question],
        [context],
        max_length=config.max_length,
        stride=config.stride,
        sentences=config.sentences,
        causal=config.causal,
    )
    spans = [(one, one.positions(best.start, best.end)) for one in windows]
    window, span = next((x for x in spans if x[1] is not None), (windows[0], None))
    span = (window.null, window.null) if span is None else span
    model, device, length = answerer.model, answerer.device, len(window.ids)
    passage = torch.zeros(length, dtype=torch.bool, device=device)
    passage[window.first : window.first + len(window.spans)] = True
    passage[[window.null, *span]] = True

    def decide(x: Float[Tensor, "R L 2"]) -> Float[Tensor, "R S V"]:
        return x.mT.masked_fill(~passage, -1e4)

    def logits(rows: int) -> Tensor:
        tokens = torch.tensor([window.ids] * rows, device=device)
        segments = torch.tensor([window.segments] * rows, device=device)
        return decide(model(tokens, segments=segments if tells_texts_apart(model) else None))

    norm, tokens = closing_norm(model), labeled(answerer.tokenizer, window.ids)
    return View(
        kind="answer",
        inputs=dict(inputs),
        output=found.answer or "(no answer in the passage)",
        note=f"shown is the part with the answer, of {len(windows)}" if len(windows) > 1 else "",
        sequences={"source": tokens},
        steps=[
            Step(what, "source", at, at) for what, at in zip(("start", "end"), span, strict=True)
        ],
        candidates="positions",
        name=lambda i: tokens[i][0],
        logits=logits,
        read=lambda states: decide(model.score(norm(states)[None]))[0],
    )


def view_tags(tagger: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a text and the tag of each word."""
    check_strings([inputs["text"]])
    words = [word[0] for word in WORD.finditer(inputs["text"])]
    ids, positions = tagger.encode(words)
    found = [(word, at) for word, at in zip(words, positions, strict=True) if at is not None]
    places = [at for _, at in found]
    model, names, device = tagger.model, tagger.labels.names, tagger.device

    def logits(rows: int) -> Tensor:
        return model(torch.tensor([ids] * rows, device=device))[:, places]

    with torch.inference_mode():
        best = logits(1)[0].argmax(-1).tolist()
    norm, entities = closing_norm(model), tagger.predict([inputs["text"]])[0].entities
    return View(
        kind="tag",
        inputs=dict(inputs),
        output=", ".join(f"{one.text} ({one.label})" for one in entities) or "(none)",
        sequences={"source": labeled(tagger.tokenizer, ids)},
        steps=[Step(w, "source", at, tag) for (w, at), tag in zip(found, best, strict=True)],
        candidates="classes",
        name=names.__getitem__,
        logits=logits,
        read=lambda states: model.score(norm(states)[None])[0, places],
    )


def view_image(recognizer: Any, inputs: Mapping[str, Any], told: Told) -> View:
    """View an image, as the model receives it, and its classes."""
    image = inputs.get("picture", inputs["text"])  # an open image, or the path of a file
    model, names = recognizer.model, recognizer.labels.names
    pixels = recognizer.preprocessor([image]).to(recognizer.device)
    prediction = recognizer.predict([image])[0]
    vit = model.encoder
    places = grid(pixels.shape[2:], pair(vit.config.patch_size))
    before = ["[class]"] * (vit.class_token is not None)
    before += ["[distillation]"] * (vit.distillation_token is not None)
    patches = [f"row {y + 1}, column {x + 1}" for y in range(places[0]) for x in range(places[1])]
    norm = closing_norm(model)
    return View(
        kind="recognize",
        inputs={"text": Path(str(inputs["text"])).name},
        output=prediction.label,
        sequences={"source": [(one, True) for one in before] + [(one, False) for one in patches]},
        steps=[Step("class", "source", 0, names.index(prediction.label))],
        candidates="classes",
        name=names.__getitem__,
        logits=lambda rows: model(pixels.expand(rows, -1, -1, -1))[:, None],
        read=lambda states: model.score(norm(states)[None])[:1],
        image={
            "png": _png(pixels[0], recognizer.preprocessor.config),
            "grid": list(places),
            "prefix": len(before),
        },
    )


def view_embedding(embedder: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View an embedded text, and the similarity of its vector to that of a second text."""
    texts = [inputs["text"], *([inputs["second"]] if inputs.get("second") else [])]
    encoded = embedder.encode(texts)
    ids, model = encoded.ids[0], embedder.model
    vectors = embedder.embed(encoded)
    output = f"a vector of {vectors.shape[1]} numbers"
    if len(texts) > 1:
        output = f"cosine {float(vectors[0] @ vectors[1]):.3f} with the second text"

    def logits(rows: int) -> Tensor:
        model(torch.tensor([ids] * rows, device=embedder.device))
        return torch.zeros(rows, 0, 1)  # nothing is predicted

    return View(
        kind="embed",
        inputs=dict(inputs),
        output=output,
        note=encoded.note(0),
        sequences={"source": labeled(embedder.tokenizer, ids)},
        steps=[],
        candidates="tokens",
        name=str,
        logits=logits,
    )


def _png(pixels: Float[Tensor, "C H W"], config: Any) -> str:
    """Return a prepared image, with the normalization undone, as a PNG in base64."""
    mean, std = ((torch.tensor(one or (d,)).view(-1, 1, 1)) for one, d in _scales(config))
    scaled = (pixels.cpu() * std + mean) / (config.rescale_factor or 1)
    levels = scaled.round().clamp(0, 255).byte().permute(1, 2, 0)
    array = levels[..., 0].numpy() if levels.shape[2] == 1 else levels.numpy()
    file = io.BytesIO()
    pillow_modules().Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _scales(config: Any) -> tuple[tuple[Any, float], tuple[Any, float]]:
    return (config.mean, 0.0), (config.std, 1.0)


VIEWS: dict[str, Callable[[Any, Mapping[str, Any], Told], View]] = {
    "classify": view_classification,
    "answer": view_answer,
    "tag": view_tags,
    "translate": view_translation,
    "summarize": view_summary,
    "dates": view_translation,
    "generate": view_generation,
    "chat": view_generation,
    "recognize": view_image,
    "embed": view_embedding,
}
