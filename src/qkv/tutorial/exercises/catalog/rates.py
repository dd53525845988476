"""Exercise 9.1: a learning rate for each layer."""

from functools import partial

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake

TASK = """
Give each trainable parameter of an encoder with a classifier its learning rate. Parameters
have names like "embedding.tokens.weight", "layers.0.attention.query.weight",
"layers.11.norm.bias", "pooler.weight" and "classifier.bias"; layer 0 is the lowest. The
classifier and the pooler train at `rate`. Of the n_layers layers, the `top` highest train:
the highest at rate * decay, the one below at rate * decay^2, and so on; all parameters of a
layer have its rate. Lower layers and the embedding are frozen.

names: a list of strings   n_layers, top: ints   rate, decay: floats

Return a dict from the names of the trainable parameters to their rates; frozen parameters
are not in it.
"""


def learning_rates(
    names: list[str], n_layers: int, top: int, rate: float, decay: float
) -> dict[str, float]:
    """Return the rates of the trainable parameters."""
    rates = {}
    for name in names:
        part, *rest = name.split(".")
        if part in ("classifier", "pooler"):
            rates[name] = rate
        elif part == "layers":
            depth = n_layers - int(rest[0])  # 1 for the highest layer
            if depth <= top:
                rates[name] = rate * decay**depth
    return rates


def draws() -> list[Draw]:
    """From a head alone to all layers; more than ten layers, whose numbers share digits."""

    def names(n_layers: int) -> list[str]:
        parts = ("attention.query.weight", "attention.query.bias", "norm.weight", "norm.bias")
        return [
            "embedding.tokens.weight",
            "embedding.norm.weight",
            *(f"layers.{i}.{part}" for i in range(n_layers) for part in parts),
            "pooler.weight",
            "pooler.bias",
            "classifier.weight",
            "classifier.bias",
        ]

    return [
        Draw("the head alone", (names(3), 3, 0, 0.5, 0.25)),
        Draw("the top layer of three", (names(3), 3, 1, 0.5, 0.25)),
        Draw("the top two layers of twelve", (names(12), 12, 2, 0.25, 0.9)),
        Draw("all five layers", (names(5), 5, 5, 2.0, 0.5)),
        Draw("eleven of twelve layers", (names(12), 12, 11, 1.0, 0.75)),
    ]


def wrong_rates(
    names: list[str],
    n_layers: int,
    top: int,
    rate: float,
    decay: float,
    *,
    which: str = "highest",
    power: str = "depth",
    pooler: str = "trains",
    classifier: str = "rate",
    frozen: str = "absent",
    skip: tuple[str, ...] = (),
    embedding: str = "frozen",
    match: str = "number",
) -> dict[str, float]:
    """Give rates with one thing done in another way."""
    rates: dict[str, float] = {}

    def of(depth: int) -> float:
        return {
            "depth": rate * decay**depth,
            "depth - 1": rate * decay ** (depth - 1),
            "depth + 1": rate * decay ** (depth + 1),
            "height": rate * decay ** (n_layers - depth),
            "height + 1": rate * decay ** (n_layers - depth + 1),
            "turned": rate * decay ** (top - depth + 1),
            "linear": rate * decay * depth,
            "divided": rate / decay**depth,
            "constant": rate * decay,
            "none": rate,
        }[power]

    for name in names:
        part, *rest = name.split(".")
        if part in ("classifier", "pooler"):
            if part == "pooler" and pooler == "frozen":
                continue
            decayed = classifier == "decayed" or (part == "pooler" and pooler == "decayed")
            rates[name] = rate * decay if decayed else rate
        elif part == "embedding":
            if embedding == "trains" or (embedding == "with all layers" and top >= n_layers):
                rates[name] = of(n_layers + 1)
        elif not any(word in name for word in skip):
            height = int(rest[0])
            if match == "first digit":
                height = int(rest[0][0])
            depth = n_layers - height
            trains = {
                "highest": depth <= top,
                "lowest": height < top,
                "one less": depth < top,
                "one more": depth <= top + 1,
                "all": True,
            }[which]
            if trains:
                rates[name] = of(depth if which != "lowest" else height + 1)
    if match == "prefix":  # layers.1 is also the beginning of layers.10
        for k in range(top):
            for name in names:
                if name.startswith(f"layers.{n_layers - 1 - k}"):
                    rates[name] = of(k + 1)
    if frozen == "0":
        rates |= {name: 0.0 for name in names if name not in rates}
    return rates


MISTAKES = (
    Mistake(
        "the rates fall from the bottom to the top",
        partial(wrong_rates, power="height + 1"),
        "Your lowest layer has the largest rate.",
        "Higher layers know more about the task, and change more.",
    ),
    Mistake(
        "the rates fall from the bottom to the top, from rate on",
        partial(wrong_rates, power="height"),
        "Your lowest layer has the largest rate.",
        "Higher layers know more about the task, and change more.",
    ),
    Mistake(
        "the rates of the trained layers are turned",
        partial(wrong_rates, power="turned"),
        "The lowest of your trained layers has the largest rate.",
        "The highest layer has rate * decay.",
    ),
    Mistake(
        "the lowest layers train",
        partial(wrong_rates, which="lowest"),
        "Your layers 0, 1, ... train, and the highest are frozen.",
        "Layer 0 is the lowest.",
    ),
    Mistake(
        "the highest layer has the full rate",
        partial(wrong_rates, power="depth - 1"),
        "All your layers' rates are too large by 1 / decay.",
        "The highest layer is one step below the classifier.",
    ),
    Mistake(
        "the rates fall one step too early",
        partial(wrong_rates, power="depth + 1"),
        "All your layers' rates are too small by decay.",
        "The highest layer is one step below the classifier.",
    ),
    Mistake(
        "all layers have one rate",
        partial(wrong_rates, power="constant"),
        "Your layers all have rate * decay.",
        "Each layer's rate is smaller than that of the layer above.",
    ),
    Mistake(
        "there is no decay",
        partial(wrong_rates, power="none"),
        "Your layers have the rate of the classifier.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the rates are multiples",
        partial(wrong_rates, power="linear"),
        "Your rates grow with the distance from the top: rate * decay * k.",
        "decay is a factor for each step down.",
    ),
    Mistake(
        "the rates are divided by decay",
        partial(wrong_rates, power="divided"),
        "Your rates grow toward the bottom.",
        "decay is a factor for each step down.",
    ),
    Mistake(
        "one layer too few trains",
        partial(wrong_rates, which="one less"),
        "Your lowest trained layer is missing.",
        "Count: with top = 1, the highest layer trains.",
    ),
    Mistake(
        "one layer too many trains",
        partial(wrong_rates, which="one more"),
        "You train one layer too many.",
        "Count: with top = 0, no layer trains.",
    ),
    Mistake(
        "all layers train",
        partial(wrong_rates, which="all"),
        "Your lower layers are not frozen.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the pooler is frozen",
        partial(wrong_rates, pooler="frozen"),
        "Your pooler has no rate.",
        "The pooler is above all layers.",
    ),
    Mistake(
        "the pooler has a smaller rate",
        partial(wrong_rates, pooler="decayed"),
        "Your pooler has rate * decay.",
        "Classifier and pooler train at the same rate.",
    ),
    Mistake(
        "the classifier has a smaller rate",
        partial(wrong_rates, classifier="decayed"),
        "Your classifier and pooler have rate * decay.",
        "They train at `rate`.",
    ),
    Mistake(
        "frozen parameters have the rate 0",
        partial(wrong_rates, frozen="0"),
        "Your dict has the frozen parameters, too.",
        "What is frozen is not in the dict: it needs no gradient, and no optimizer's memory.",
    ),
    Mistake(
        "norms are left out",
        partial(wrong_rates, skip=("norm",)),
        "Your layers' norms are frozen.",
        "All parameters of a layer have its rate.",
    ),
    Mistake(
        "biases are left out",
        partial(wrong_rates, skip=("bias",)),
        "Your layers' biases are frozen.",
        "All parameters of a layer have its rate.",
    ),
    Mistake(
        "the embedding trains",
        partial(wrong_rates, embedding="trains"),
        "Your embedding has a rate.",
        "The embedding is frozen.",
    ),
    Mistake(
        "the embedding trains with the lowest layer",
        partial(wrong_rates, embedding="with all layers"),
        "Your embedding has a rate if all layers train.",
        "The embedding is frozen.",
    ),
    Mistake(
        "layer 1 is taken for layers 10 and 11, too",
        partial(wrong_rates, match="prefix"),
        "With twelve layers, your layers 10 and 11 have the rate of layer 1.",
        "layers.10 begins with layers.1: compare numbers, or include the point.",
    ),
    Mistake(
        "only the first digit of a layer counts",
        partial(wrong_rates, match="first digit"),
        "With twelve layers, your layers 10 and 11 are taken for layer 1.",
        "Split the name at its points.",
    ),
)


EXERCISE = Exercise(
    number="9.1",
    title="A learning rate for each layer",
    task=TASK.strip(),
    solve=learning_rates,
    draws=draws,
    mistakes=MISTAKES,
    hint="The number of a layer is the second part of its name; how far is it from the top?",
    remark=(
        "Freeze first and make the optimizer afterwards: `qkv.training.finetune.layerwise_adamw` "
        "does both with one rule for all model families."
    ),
)
