"""The exercises by number. Nothing here imports torch, so `qkv exercise list` is fast."""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from qkv.errors import ConfigError

if TYPE_CHECKING:
    from qkv.tutorial.exercises.exercise import Exercise


class Entry(NamedTuple):
    """An exercise's module in `catalog`, which defines `EXERCISE`, and its title."""

    module: str
    title: str


# The only registry: a new exercise is one file in `catalog` and one line here.
EXERCISES = {
    "1.1": Entry("additive_step", "One step of Bahdanau's attention"),
    "1.2": Entry("concat", "Luong's concat scores"),
    "1.3": Entry("local_window", "The weights of local-p attention"),
    "2.1": Entry("by_hand", "Weights and output with pencil and paper"),
    "2.2": Entry("masked_attention", "Scaled dot-product attention with masks"),
    "2.3": Entry("online_softmax", "Attention over blocks of keys"),
    "3.1": Entry("split_heads", "Multi-head attention from its four matrices"),
    "3.2": Entry("grouped_heads", "Grouped heads and the size of the cache"),
    "3.3": Entry("head_ablation", "Which head matters"),
    "4.1": Entry("sines", "Sinusoidal positions"),
    "4.2": Entry("rotary", "Rotary positions with cached keys"),
    "4.3": Entry("residual_norm", "A sublayer with layer norm and residual"),
    "5.1": Entry("decoder", "A decoder block from its parts"),
    "5.2": Entry("gpt_size", "The parameters of GPT-2"),
    "5.3": Entry("causality", "Does a module look ahead?"),
    "6.1": Entry("bleu", "BLEU of a test set"),
    "6.2": Entry("beam", "Beam search"),
    "6.3": Entry("patches", "An image as tokens"),
    "7.1": Entry("batch", "A batch of pairs"),
    "7.2": Entry("smoothed_loss", "Cross-entropy with padding and label smoothing"),
    "7.3": Entry("greedy_decoding", "Greedy decoding with a cache"),
    "8.1": Entry("masking", "BERT's masked tokens"),
    "8.2": Entry("gpt_names", "Loading GPT-2's tensors under other names"),
    "8.3": Entry("sentence_similarity", "Mean pooling and cosine similarity"),
    "9.1": Entry("rates", "A learning rate for each layer"),
    "9.2": Entry("lora", "A linear layer with LoRA"),
    "9.3": Entry("honest_score", "Choose a run and report its score"),
}


def find_exercise(number: str) -> "Exercise":
    """Import an exercise.

    Raises:
        ConfigError: there is no exercise with this number.
    """
    check_number(number)
    module = f"qkv.tutorial.exercises.catalog.{EXERCISES[number].module}"
    return import_module(module).EXERCISE


def check_number(number: str) -> None:
    """Check that there is an exercise with this number.

    Raises:
        ConfigError: there is none.
    """
    if number not in EXERCISES:
        raise ConfigError(
            f"there is no exercise {number!r}; expected a section and a number, such as 2.2 "
            "(qkv exercise list shows all)"
        )
