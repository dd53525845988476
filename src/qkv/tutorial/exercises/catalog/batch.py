"""Exercise 7.1: a batch of pairs."""

from functools import partial

import torch
from torch import Tensor

from qkv.data.batches import collate_pairs
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, together, whole

TASK = """
Make a batch for teacher forcing of pairs (source ids, target ids). Sources stay as they are,
padded on the right with `pad` to the longest source of the batch. The decoder's input is the
start token and then the target; its expected output is the target and then the stop token;
both are padded on the right to the longest of them. Masks are boolean, True = a real token;
start and stop are real tokens.

pairs: a list of pairs of lists of ints   pad, start, stop: ints

Return a dict with "source" and "source_mask" (B, S), "target_input", "target" and
"target_mask" (B, T), where T is one more than the length of the longest target.
"""


def collate(
    pairs: list[tuple[list[int], list[int]]], pad: int, start: int, stop: int
) -> dict[str, Tensor]:
    """Return the batch."""

    def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows])
        return ids, mask

    source, source_mask = padded([source for source, _ in pairs])
    target_input, target_mask = padded([[start, *target] for _, target in pairs])
    target, _ = padded([[*target, stop] for _, target in pairs])
    return {
        "source": source,
        "source_mask": source_mask,
        "target_input": target_input,
        "target": target,
        "target_mask": target_mask,
    }


def reference(
    pairs: list[tuple[list[int], list[int]]], pad: int, start: int, stop: int
) -> dict[str, Tensor]:
    """Make the batch with the library."""
    batch = vars(collate_pairs(pairs, pad=pad, start=start, stop=stop))
    return {name: x for name, x in batch.items() if isinstance(x, Tensor)}


def draws() -> list[Draw]:
    """Pairs of different lengths; in the last draw, the pad id also is a real token."""
    draw = whole(71)

    def inputs(*lengths: tuple[int, int], pad: int = 0, low: int = 3) -> tuple[object, ...]:
        pairs = [((draw(50, s) + low).tolist(), (draw(50, t) + low).tolist()) for s, t in lengths]
        return pairs, pad, 1, 2

    same = inputs((5, 3), (2, 7), (7, 2))
    same[0][0][1][1] = same[0][2][0][3] = 0  # pyright: ignore[reportIndexIssue]
    return [
        Draw("pairs of one length", inputs((5, 3), (5, 3))),
        Draw("sources longer than targets", inputs((11, 3), (7, 5), (5, 2))),
        Draw("targets longer than sources", inputs((3, 11), (5, 7))),
        Draw("a pad id that is not 0", inputs((7, 5), (5, 7), pad=99)),
        Draw("texts in which the pad id occurs", same),
    ]


def wrong_collate(
    pairs: list[tuple[list[int], list[int]]],
    pad: int,
    start: int,
    stop: int,
    *,
    shift: str = "both",
    masks: str = "lengths",
    side: str = "right",
    fill: int | None = None,
    source: str = "as it is",
    together: bool = False,
    own: str = "",
) -> dict[str, Tensor]:
    """Make the batch with one thing done in another way."""
    ends = {"stop": (0, [stop]), "start and stop": (1, [stop]), "start": (1, [])}
    front, back = ends.get(source, (0, []))
    sources = [[start] * front + s + back for s, _ in pairs]
    sources = [s[::-1] for s in sources] if source == "reversed" else sources
    whole_targets = [[start, *t, stop] for _, t in pairs]
    inputs, outputs = [row[:-1] for row in whole_targets], [row[1:] for row in whole_targets]
    if shift == "target has start":
        outputs = inputs
    elif shift == "input has no start":
        inputs = outputs
    elif shift == "exchanged":
        inputs, outputs = outputs, inputs
    elif shift == "no stop":
        outputs = [t for _, t in pairs]
    elif shift == "plain input":
        inputs = [t for _, t in pairs]
    elif shift == "whole":
        inputs = outputs = whole_targets
    elif shift == "whole input":
        inputs = whole_targets
    elif shift == "whole target":
        outputs = whole_targets
    longest = max(map(len, inputs + outputs))
    longest_source = max(map(len, sources))
    if together:
        longest = longest_source = max(longest, longest_source)

    def padded(rows: list[list[int]], size: int) -> Tensor:
        if side == "left":
            return torch.tensor([[pad] * (size - len(row)) + row for row in rows])
        used = pad if fill is None else fill
        return torch.tensor([row + [used] * (size - len(row)) for row in rows])

    def real(rows: list[list[int]], size: int) -> Tensor:
        if side == "left":
            return torch.tensor([[i >= size - len(row) for i in range(size)] for row in rows])
        return torch.tensor([[i < len(row) for i in range(size)] for row in rows])

    target_input, target = padded(inputs, longest), padded(outputs, longest)
    target_mask = real(outputs if shift == "plain input" else inputs, longest)
    if own:  # each side as long as its own longest row
        target_input = padded(inputs, max(map(len, inputs)))
        target = padded(outputs, max(map(len, outputs)))
        rows = inputs if own == "mask of the input" else outputs
        target_mask = real(rows, max(map(len, rows)))
    if shift == "cut after padding":  # shorter rows keep their stop token as an input
        rows = padded(whole_targets, longest + 1)
        target_input, target = rows[:, :-1], rows[:, 1:]
        target_mask = {
            "lengths": target_mask,
            "input": target_input != pad,
            "target": target != pad,
        }[masks]
    batch = {
        "source": padded(sources, longest_source),
        "source_mask": real(sources, longest_source),
        "target_input": target_input,
        "target": target,
        "target_mask": target_mask,
    }
    if masks == "not pad" or (shift == "cut after padding" and masks != "lengths"):
        batch["source_mask"] = batch["source"] != pad
    if masks == "not pad":
        batch["target_mask"] = batch["target"] != pad
    elif masks == "inverted":
        batch |= {name: ~batch[name] for name in ("source_mask", "target_mask")}
    elif masks == "short":
        batch["target_mask"] = real([t for _, t in pairs], longest)
    elif masks == "without start":
        batch["target_mask"] = batch["target_mask"] & (batch["target_input"] != start)
    elif masks == "all":
        batch |= {name: torch.ones_like(batch[name]) for name in ("source_mask", "target_mask")}
    return batch


MISTAKES = (
    Mistake(
        "the target is not shifted",
        partial(wrong_collate, shift="target has start"),
        "Your target equals your input: a model would only learn to copy.",
        "The expected output at each place is the next token.",
    ),
    Mistake(
        "the input has no start token",
        partial(wrong_collate, shift="input has no start"),
        "Your input equals your target: a model would only learn to copy.",
        "The decoder's first input is the start token.",
    ),
    Mistake(
        "input and target are exchanged",
        partial(wrong_collate, shift="exchanged"),
        "Your input ends with the stop token, and your target begins with the start token.",
        "What does the decoder read first, and what does it write last?",
    ),
    Mistake(
        "the stop token is missing",
        partial(wrong_collate, shift="no stop"),
        "Your target ends with its last word: a model would never learn to stop.",
        "The expected output after the last word is the stop token.",
    ),
    Mistake(
        "the stop token is missing",
        partial(wrong_collate, shift="no stop", own="mask of the target"),
        "Your target ends with its last word: a model would never learn to stop.",
        "The expected output after the last word is the stop token.",
    ),
    Mistake(
        "the stop token is missing",
        partial(wrong_collate, shift="no stop", own="mask of the input"),
        "Your target ends with its last word: a model would never learn to stop.",
        "The expected output after the last word is the stop token.",
    ),
    Mistake(
        "the start token is missing",
        partial(wrong_collate, shift="plain input"),
        "Your input is the target itself.",
        "The decoder's first input is the start token.",
    ),
    Mistake(
        "the start token is missing",
        partial(wrong_collate, shift="plain input", own="mask of the target"),
        "Your input is the target itself.",
        "The decoder's first input is the start token.",
    ),
    Mistake(
        "the start token is missing",
        partial(wrong_collate, shift="plain input", own="mask of the input"),
        "Your input is the target itself.",
        "The decoder's first input is the start token.",
    ),
    Mistake(
        "input and target have both start and stop",
        partial(wrong_collate, shift="whole"),
        "Your targets are one token too long.",
        "The input has the start token, the target the stop token.",
    ),
    Mistake(
        "the input has the stop token, too",
        partial(wrong_collate, shift="whole input"),
        "Your inputs are one token too long.",
        "Nothing is predicted after the stop token, so it is never an input.",
    ),
    Mistake(
        "the target has the start token, too",
        partial(wrong_collate, shift="whole target", own="mask of the input"),
        "Your targets are one token too long.",
        "The start token is given, not predicted.",
    ),
    Mistake(
        "the target has the start token, too",
        partial(wrong_collate, shift="whole target", own="mask of the target"),
        "Your targets are one token too long.",
        "The start token is given, not predicted.",
    ),
    Mistake(
        "the target has the start token, too",
        partial(wrong_collate, shift="whole target"),
        "Your targets are one token too long.",
        "The start token is given, not predicted.",
    ),
    Mistake(
        "the input has the stop token, too",
        partial(wrong_collate, shift="whole input", own="mask of the target"),
        "Your inputs are one token too long.",
        "Nothing is predicted after the stop token, so it is never an input.",
    ),
    Mistake(
        "the input has the stop token, too",
        partial(wrong_collate, shift="whole input", own="mask of the input"),
        "Your inputs are one token too long.",
        "Nothing is predicted after the stop token, so it is never an input.",
    ),
    Mistake(
        "the rows are cut after padding",
        partial(wrong_collate, shift="cut after padding", masks="lengths"),
        "In your shorter rows, the input still has the stop token.",
        "Take the last token off each row before it is padded.",
    ),
    Mistake(
        "the rows are cut after padding, and the mask is that of the input",
        partial(wrong_collate, shift="cut after padding", masks="input"),
        "In your shorter rows, the stop token is an input, and the mask is one too long.",
        "Take the last token off each row before it is padded.",
    ),
    Mistake(
        "the rows are cut after padding, and masks compare with pad",
        partial(wrong_collate, shift="cut after padding", masks="target"),
        "In your shorter rows, the input still has the stop token.",
        "Take the last token off each row before it is padded.",
    ),
    Mistake(
        "the masks are made by comparing with pad",
        partial(wrong_collate, masks="not pad"),
        "Your masks are False at a real token whose id happens to be that of pad.",
        "Lengths say what is real; ids may not.",
    ),
    Mistake(
        "the masks are inverted",
        partial(wrong_collate, masks="inverted"),
        "Your masks are True at the padding.",
        "True = a real token.",
    ),
    Mistake(
        "the masks are True everywhere",
        partial(wrong_collate, masks="all"),
        "Your masks do not tell padding from real tokens.",
        "False = padding.",
    ),
    Mistake(
        "the target's mask is one too short",
        partial(wrong_collate, masks="short"),
        "Your mask leaves out one real token of each row.",
        "With the start or the stop token, a target has one token more.",
    ),
    Mistake(
        "the start token is masked",
        partial(wrong_collate, masks="without start"),
        "Your target's mask is False at its first place.",
        "Start and stop are real tokens; at the start token's place the first word is predicted.",
    ),
    Mistake(
        "the padding is on the left",
        partial(wrong_collate, side="left"),
        "Your rows begin with padding.",
        "Pad on the right.",
    ),
    Mistake(
        "the padding is always 0",
        partial(wrong_collate, fill=0),
        "Your rows are filled with 0, whatever pad is.",
        "Which argument have you not used?",
    ),
    Mistake(
        "the sources have a stop token",
        partial(wrong_collate, source="stop"),
        "Your sources are one token too long.",
        "Sources stay as they are.",
    ),
    Mistake(
        "the sources have a start token",
        partial(wrong_collate, source="start"),
        "Your sources are one token too long.",
        "Sources stay as they are.",
    ),
    Mistake(
        "the sources have start and stop tokens",
        partial(wrong_collate, source="start and stop"),
        "Your sources are two tokens too long.",
        "Sources stay as they are.",
    ),
    Mistake(
        "the sources are reversed",
        partial(wrong_collate, source="reversed"),
        "Your sources run backward.",
        "Sources stay as they are.",
    ),
    Mistake(
        "sources and targets are padded to one length",
        partial(wrong_collate, together=True),
        "Your sources or targets have columns of nothing but padding.",
        "Each side has its own longest row.",
    ),
)


EXERCISE = Exercise(
    number="7.1",
    title="A batch of pairs",
    task=TASK.strip(),
    solve=collate,
    reference=reference,
    draws=draws,
    mistakes=(*MISTAKES, *together(MISTAKES, "masks", "not pad")),
    hint="Write one inner function that pads a list of rows and returns ids and mask.",
    remark=(
        "Input and output are shifted by one: at each place the model sees what comes before and "
        "is asked for what stands there."
    ),
)
