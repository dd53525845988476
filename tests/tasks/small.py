"""A small BERT with a tokenizer in a folder, tables of texts, and recipes that train it."""

import csv
import itertools
import json

import torch
from safetensors.torch import load_file
from tests.checkpoints.folders import model

import qkv.tasks.pipeline as pipeline
from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.tasks.classification import TextClassifier
from qkv.tasks.pretrained import save

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD, BAD = ["fine", "superb", "lovely", "clever"], ["dull", "awful", "broken", "rude"]
THINGS = ["film", "meal", "book", "tool", "place", "plot", "soup", "chapter", "handle", "garden"]
VOCABULARY = [*SPECIAL, *GOOD, *BAD, *THINGS, "the", "was", "not", "a", "and", "##s", ".", "!"]
SETTINGS = {"tokenizer_class": "BertTokenizer", "model_max_length": 512}
FILES = {
    "vocab.txt": "\n".join(VOCABULARY).encode() + b"\n",
    "tokenizer_config.json": json.dumps(SETTINGS).encode(),
}
RECIPE = """
task: classify
output: {output}
base: {base}
device: cpu
data: {{train: {data}, validation_fraction: 0.25}}
max_length: 13
training: {{epochs: 2, batch_size: 7, learning_rate: 1e-3, schedule: constant, warmup: 0}}
"""


def write_base(folder, model_type="bert", architecture=None, files=FILES, dtype=torch.float32):
    """A pretrained encoder of 3 layers, 22 wide, for 41 tokens; returns the folder."""
    one = model(model_type, architecture)
    with torch.no_grad():
        for name, p in one.named_parameters():
            # Noise of 0.4, as it comes, drowns the texts: nothing can be learned on top of it.
            p.mul_(0.5 if p.ndim > 1 else 0.2).add_(float(name.endswith("norm.weight")))
    one.to(dtype)
    save_checkpoint(Checkpoint(one, {"model_type": model_type}), folder, files=files)
    return folder


def write_classifier(folder, labels, base, max_length=13):
    """A classifier whose head is as it started; returns the folder."""
    torch.manual_seed(1)
    classifier = TextClassifier.fresh(base, labels, max_length=max_length)
    head = classifier.model.classifier.output
    with torch.no_grad():
        head.weight *= 20  # of opinions, and no class is always the likeliest
        rows = classifier.probabilities([text for text, _ in sentences(40)])
        head.bias -= rows.log().mean(0).float()
    save(classifier.loaded, folder)
    return folder


def load_in_float64(monkeypatch, module=pipeline):
    """Let pipelines load models in float64: two runs then print the same digits everywhere."""
    load = module.load
    monkeypatch.setattr(module, "load", lambda *a, **o: load(*a, **{**o, "dtype": torch.float64}))


def sentences(n):
    """(text, label): different texts of different lengths, with alternating classes."""
    words = itertools.product(THINGS, range(4), ["the", "a", "the the"])
    rows = []
    for i, (thing, j, article) in enumerate(itertools.islice(words, n)):
        word, label = (GOOD[j], "good") if i % 2 else (BAD[j], "bad")
        end = ["", " .", " and not a book !"][i % 3]
        rows.append((f"{article} {thing} was {word}{end}", label))
    return rows


def write_table(path, rows, columns=("text", "label")):
    """A csv; returns its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_recipe(folder, *, base, data, output=None):
    """A recipe; returns its path and that of the model that it makes."""
    output = output or folder / "made"
    recipe = folder / "recipe.yaml"
    names = {"output": output, "base": base, "data": data}
    recipe.write_text(RECIPE.format(**{name: path.as_posix() for name, path in names.items()}))
    return str(recipe), output


def tensors(folder):
    """The weights in a folder, by the names of the file, without the family's prefix."""
    read = load_file(folder / "model.safetensors")
    return {name.removeprefix("bert."): tensor for name, tensor in read.items()}


def results(folder):
    """The content of results.json without seconds and the state of the repository."""
    content = json.loads((folder / "results.json").read_text())
    return {
        name: value
        for name, value in content.items()
        if not name.endswith("_seconds") and name != "git"
    }
