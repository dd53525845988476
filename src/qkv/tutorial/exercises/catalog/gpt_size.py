"""Exercise 5.2: the parameters of GPT-2."""

from functools import partial

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake

TASK = """
Count the parameters of a GPT-2 by a formula. It has a token embedding and a learned position
embedding, then n_layers blocks, then a last layer norm. A block has a layer norm before its
attention and one before its feed-forward network (each has a weight and a bias of width
d_model); attention has four projections d_model x d_model with biases; the feed-forward
network has two layers with biases, d_model to d_ff and back. The output layer is the token
embedding again and has no bias. n_heads is the number of heads.

All arguments are ints. Return an int. (GPT-2 small: 50257, 1024, 768, 3072, 12, 12.)
"""


def n_parameters(
    vocab_size: int, n_positions: int, d_model: int, d_ff: int, n_layers: int, n_heads: int
) -> int:
    """Return the number of parameters."""
    norm = 2 * d_model
    attention = 4 * (d_model * d_model + d_model)
    feed_forward = (d_model * d_ff + d_ff) + (d_ff * d_model + d_model)
    block = 2 * norm + attention + feed_forward
    return (vocab_size + n_positions) * d_model + n_layers * block + norm


def draws() -> list[Draw]:
    """Three sizes of OpenAI's, and a small one."""
    return [
        Draw("GPT-2 small", (50257, 1024, 768, 3072, 12, 12)),
        Draw("GPT-2 medium", (50257, 1024, 1024, 4096, 24, 16)),
        Draw("a small model", (101, 31, 14, 37, 3, 7)),
        Draw("a model of one layer", (97, 13, 6, 11, 1, 2)),
    ]


def wrong_count(
    vocab_size: int,
    n_positions: int,
    d_model: int,
    d_ff: int,
    n_layers: int,
    n_heads: int,
    *,
    wrong: str = "",
) -> int:
    """Count with one thing counted in another way."""
    d, h = d_model, n_heads
    norm, attention = 2 * d, 4 * (d * d + d)
    feed_forward = 2 * d * d_ff + d_ff + d
    embeddings, norms, end, output = (vocab_size + n_positions) * d, 2, norm, 0
    if wrong == "no biases in attention":
        attention = 4 * d * d
    elif wrong == "a bias less in attention":
        attention = 4 * d * d + 3 * d
    elif wrong == "no output bias, only qkv":
        attention = 4 * d * d + d
    elif wrong == "no biases in layers":
        attention, feed_forward = 4 * d * d, 2 * d * d_ff
    elif wrong == "no biases at all":
        attention, feed_forward, norm, end = 4 * d * d, 2 * d * d_ff, d, d
    elif wrong == "no biases in the network":
        feed_forward = 2 * d * d_ff
    elif wrong == "a bias less in the network":
        feed_forward = 2 * d * d_ff + d
    elif wrong == "both biases d_ff":
        feed_forward = 2 * d * d_ff + 2 * d_ff
    elif wrong == "one layer in the network":
        feed_forward = d * d_ff + d_ff
    elif wrong == "times heads":
        attention *= h
    elif wrong == "divided by heads":
        attention = 3 * (d * (d // h) + d // h) + d * d + d
    elif wrong == "three projections":
        attention = 3 * (d * d + d)
    elif wrong == "tied twice":
        output = vocab_size * d
    elif wrong == "tied twice with bias":
        output = vocab_size * d + vocab_size
    elif wrong == "output bias":
        output = vocab_size
    elif wrong == "no positions":
        embeddings = vocab_size * d
    elif wrong == "no tokens":
        embeddings = n_positions * d
    elif wrong == "one norm":
        norms = 1
    elif wrong == "three norms":
        norms = 3
    elif wrong == "no norms":
        norms, end = 0, 0
    elif wrong == "no last norm":
        end = 0
    elif wrong == "norm without bias":
        norm, end = d, d
    elif wrong == "one block":
        n_layers = 1
    return embeddings + n_layers * (norms * norm + attention + feed_forward) + end + output


COUNTED = {
    "no biases in attention": ("the biases of attention are missing", "Each projection has one."),
    "a bias less in attention": ("a bias of attention is missing", "There are four projections."),
    "no output bias, only qkv": (
        "three biases of attention are missing",
        "All four projections have one.",
    ),
    "no biases in layers": (
        "the biases of attention and feed-forward network are missing",
        "Every linear layer of a block has one.",
    ),
    "no biases at all": ("there are no biases", "Linear layers and norms have them."),
    "no biases in the network": (
        "the biases of the feed-forward network are missing",
        "Its two layers have one each.",
    ),
    "a bias less in the network": (
        "a bias of the feed-forward network is missing",
        "Its two layers have one each; how long is it?",
    ),
    "both biases d_ff": (
        "both biases of the feed-forward network have the width d_ff",
        "A bias is as long as the output of its layer.",
    ),
    "one layer in the network": (
        "the way back of the feed-forward network is missing",
        "It has two layers.",
    ),
    "times heads": (
        "attention is counted once for each head",
        "Heads share the four matrices: each uses a part of the columns.",
    ),
    "divided by heads": (
        "queries, keys and values are counted for one head",
        "The three projections are d_model wide, for all heads together.",
    ),
    "three projections": (
        "a projection of attention is missing",
        "Queries, keys, values, and what comes after the heads.",
    ),
    "tied twice": (
        "the token embedding is counted twice",
        "The output layer is the same tensor again.",
    ),
    "tied twice with bias": (
        "the output layer is counted, with a bias",
        "The output layer is the token embedding again, and has no bias.",
    ),
    "output bias": ("the output layer has a bias", "It has none."),
    "no positions": ("the position embedding is missing", "Positions are learned, too."),
    "no tokens": ("the token embedding is missing", "Each token has a vector."),
    "one norm": ("a norm of each block is missing", "Attention has one before it, and so has ..."),
    "three norms": (
        "each block has a norm too many",
        "There is no cross-attention, so there are two sublayers.",
    ),
    "no norms": ("the norms are missing", "There are two in a block and one at the end."),
    "no last norm": ("the last norm is missing", "What comes after the last pre-norm block?"),
    "norm without bias": ("the norms have no bias", "A layer norm has a weight and a bias."),
    "one block": ("a single block is counted", "Multiply by the number of blocks."),
}


def difference_in_words(wrong: str) -> str:
    """Say by how much the number for GPT-2 small is off."""
    sizes = (50257, 1024, 768, 3072, 12, 12)
    off = wrong_count(*sizes, wrong=wrong) - n_parameters(*sizes)
    side = "too large" if off > 0 else "too small"
    return f"Your number for GPT-2 small is {side} by {abs(off):,}."


MISTAKES = tuple(
    Mistake(name, partial(wrong_count, wrong=wrong), difference_in_words(wrong), hint)
    for wrong, (name, hint) in COUNTED.items()
)


EXERCISE = Exercise(
    number="5.2",
    title="The parameters of GPT-2",
    task=TASK.strip(),
    solve=n_parameters,
    draws=draws,
    mistakes=MISTAKES,
    hint="Count a norm, an attention and a feed-forward network each in a line of its own.",
    remark="GPT-2 small has 124,439,808 parameters, of which 38,597,376 are its token embedding.",
)
