"""Exercise 6.3: an image as tokens."""

from functools import partial

import torch
from torch import Tensor

from qkv.models.vit import embed_patches
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Turn images into the input of a vision Transformer. Cut each image into patches of p x q
pixels, which do not overlap, row by row from the top left. A patch becomes one vector with
its channels one after another (all p x q pixels of the first channel, row by row, then those
of the second), which is multiplied by W, plus bias. Put the class token before the patches,
then add the position embeddings to all tokens; the first is the class token's.

images: (B, C, height, width)   patch: (p, q), which divide height and width
W: (D, C * p * q)   bias: (D,)   class_token: (D,)   positions: (1 + N, D), N patches

Return the tokens (B, 1 + N, D).
"""


def image_tokens(
    images: Tensor,
    patch: tuple[int, int],
    W: Tensor,
    bias: Tensor,
    class_token: Tensor,
    positions: Tensor,
) -> Tensor:
    """Return the tokens."""
    (batch, channels, height, width), (p, q) = images.shape, patch
    cut = images.reshape(batch, channels, height // p, p, width // q, q)
    flat = cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * q)  # (B, N, C p q)
    tokens = flat @ W.T + bias
    first = class_token.expand(batch, 1, -1)
    return torch.cat((first, tokens), 1) + positions


def reference(
    images: Tensor,
    patch: tuple[int, int],
    W: Tensor,
    bias: Tensor,
    class_token: Tensor,
    positions: Tensor,
) -> Tensor:
    """Compute the tokens with the library's convolution."""
    weight = W.unflatten(1, (images.shape[1], *patch))
    tokens = embed_patches(images, weight, bias)
    return torch.cat((class_token.expand(len(images), 1, -1), tokens), 1) + positions


def draws() -> list[Draw]:
    """Square and other images and patches."""
    draw = normal(63)

    def inputs(rows: int, columns: int, p: int, q: int, channels: int = 3) -> tuple[object, ...]:
        images = draw(2, channels, rows * p, columns * q)
        W, bias, token = draw(7, channels * p * q), draw(7), draw(7)
        return images, (p, q), W, bias, token, draw(1 + rows * columns, 7)

    return [
        Draw("a square image with square patches", inputs(3, 3, 2, 2)),
        Draw("an image that is wider than high", inputs(2, 5, 3, 3)),
        Draw("patches that are higher than wide", inputs(5, 3, 5, 2)),
        Draw("a gray image of one channel", inputs(2, 3, 2, 5, 1)),
    ]


def wrong_tokens(
    images: Tensor,
    patch: tuple[int, int],
    W: Tensor,
    bias: Tensor,
    class_token: Tensor,
    positions: Tensor,
    *,
    cut: str = "patches",
    first: str = "class",
    places: str = "all",
    shift: bool = True,
) -> Tensor:
    """Compute the tokens with one step done in another way."""
    (batch, channels, height, width), (p, q) = images.shape, patch
    if cut == "exchanged":
        p, q = q, p
    axes = {
        "patches": (0, 2, 4, 1, 3, 5),  # rows, columns, C, p, q
        "exchanged": (0, 2, 4, 1, 3, 5),
        "channels last": (0, 2, 4, 3, 5, 1),
        "columns of patches": (0, 4, 2, 1, 3, 5),
        "columns of pixels": (0, 2, 4, 1, 5, 3),
        "no permute": (0, 1, 2, 3, 4, 5),
        "p before columns": (0, 2, 3, 1, 4, 5),
        "channels first": (0, 1, 2, 4, 3, 5),
    }[cut]
    parts = images.reshape(batch, channels, height // p, p, width // q, q).permute(axes)
    tokens = parts.reshape(batch, -1, channels * p * q) @ W.T
    tokens = tokens + bias if shift else tokens
    start = class_token.expand(batch, 1, -1)
    if places == "patches alone":
        tokens = tokens + positions[1:]
    elif places == "patches from 0":
        tokens = tokens + positions[:-1]
    together = torch.cat((tokens, start) if first == "at the end" else (start, tokens), 1)
    if first == "projected":
        together = torch.cat((start + bias, tokens), 1)
    elif first == "zeros":
        together = torch.cat((torch.zeros_like(start), tokens), 1)
    elif first == "mean":
        together = torch.cat((tokens.mean(1, keepdim=True), tokens), 1)
    elif first == "at the end, own position":
        return torch.cat((tokens + positions[1:], start + positions[:1]), 1)
    elif first == "without":
        return tokens + positions[1:]
    return together + positions if places == "all" else together


MISTAKES = (
    Mistake(
        "the pixels are only reshaped",
        partial(wrong_tokens, cut="no permute"),
        "Your patches are torn: each is a run of pixels of a channel, across the image.",
        "Rows and columns of patches must come before C, p and q; permute does that.",
    ),
    Mistake(
        "the patches are strips",
        partial(wrong_tokens, cut="p before columns"),
        "Your tokens have pixels of several patches: p and the columns are exchanged.",
        "Rows and columns of patches must stand side by side.",
    ),
    Mistake(
        "the channels stay in front of the patches",
        partial(wrong_tokens, cut="channels first"),
        "Your tokens have pixels of one channel and several patches.",
        "All channels of a patch belong to its vector.",
    ),
    Mistake(
        "the channels come last in a patch",
        partial(wrong_tokens, cut="channels last"),
        "Your output is right for one channel: in your vectors the channels alternate.",
        "All pixels of the first channel come first.",
    ),
    Mistake(
        "the patches are counted by columns",
        partial(wrong_tokens, cut="columns of patches"),
        "Your second token is the patch below the first; it should be that on its right.",
        "Row by row: the column changes first.",
    ),
    Mistake(
        "the pixels of a patch are counted by columns",
        partial(wrong_tokens, cut="columns of pixels"),
        "Your patches are turned: rows and columns of their pixels are exchanged.",
        "p comes before q.",
    ),
    Mistake(
        "height and width of a patch are exchanged",
        partial(wrong_tokens, cut="exchanged"),
        "Your output is right for square patches.",
        "The first number is the height.",
    ),
    Mistake(
        "the class token has no position",
        partial(wrong_tokens, places="patches alone"),
        "Your first token is the class token itself.",
        "Add the positions after the tokens have been joined.",
    ),
    Mistake(
        "the patches have the positions from 0",
        partial(wrong_tokens, places="patches from 0"),
        "Each of your patches has the position of the token before it.",
        "The first position is the class token's.",
    ),
    Mistake(
        "the positions are not used",
        partial(wrong_tokens, places="none"),
        "Your tokens do not say where they stand.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the class token is at the end",
        partial(wrong_tokens, first="at the end"),
        "Your last token is the class token.",
        "It comes before the patches.",
    ),
    Mistake(
        "the class token is at the end, with its own position",
        partial(wrong_tokens, first="at the end, own position"),
        "Your last token is the class token.",
        "It comes before the patches.",
    ),
    Mistake(
        "the class token is missing",
        partial(wrong_tokens, first="without"),
        "You have one token too few.",
        "The class token comes before the patches.",
    ),
    Mistake(
        "the class token has the bias, too",
        partial(wrong_tokens, first="projected"),
        "Your first token is off by the bias.",
        "The bias belongs to the projection of the patches.",
    ),
    Mistake(
        "the first token is zeros",
        partial(wrong_tokens, first="zeros"),
        "Your first token is its position alone.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the first token is the mean of the patches",
        partial(wrong_tokens, first="mean"),
        "Your first token is the mean of the others.",
        "The class token is learned: it is an argument.",
    ),
    Mistake(
        "the bias is not used",
        partial(wrong_tokens, shift=False),
        "All your patches are off by the same vector.",
        "Which argument have you not used?",
    ),
)


EXERCISE = Exercise(
    number="6.3",
    title="An image as tokens",
    task=TASK.strip(),
    solve=image_tokens,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    hint="reshape to six axes (B, C, rows, p, columns, q), then put rows and columns in front.",
    remark="A convolution whose stride is its kernel's size does the same, as in the library.",
)
