"""Exercise 8.1: BERT's masked tokens."""

from functools import partial

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, uniform, whole

TASK = """
Prepare masked language modeling. So that results can be compared, all random numbers are
passed in, uniform from 0 to 1. A token is chosen if it is not special and chosen < 0.15 at
its place. A chosen token becomes mask_id if action < 0.8 there, the token of random_ids at
that place if 0.8 <= action < 0.9, and stays as it is otherwise. Labels are the original ids
of the chosen tokens, and -100 (no loss) everywhere else.

tokens: (B, L), ids   special: (B, L), True = start, separator or padding   mask_id: an int
chosen, action: (B, L), random numbers   random_ids: (B, L), ids

Return the model's input ids (B, L) and the labels (B, L), in this order.
Do not change the inputs.
"""


def mask_tokens(
    tokens: Tensor,
    special: Tensor,
    mask_id: int,
    chosen: Tensor,
    action: Tensor,
    random_ids: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the input ids and the labels."""
    targets = (chosen < 0.15) & ~special
    labels = tokens.masked_fill(~targets, -100)
    masked = targets & (action < 0.8)
    replaced = targets & (action >= 0.8) & (action < 0.9)
    inputs = tokens.masked_fill(masked, mask_id)
    return random_ids.where(replaced, inputs), labels


def draws() -> list[Draw]:
    """Enough tokens that each case occurs."""
    draw, choose = uniform(81), whole(81)

    def inputs(batch: int, length: int, padding: int) -> tuple[object, ...]:
        tokens = choose(97, batch, length) + 10
        tokens[:, 0], tokens[:, -1] = 1, 2
        special = tokens < 10
        special[1:, length - padding :] = True
        numbers = [draw(batch, length), draw(batch, length)]
        return tokens, special, 4, *numbers, choose(97, batch, length) + 10

    return [
        Draw("texts of one length", inputs(3, 211, 1)),
        Draw("texts with padding", inputs(5, 101, 41)),
    ]


def wrong_masking(
    tokens: Tensor,
    special: Tensor,
    mask_id: int,
    chosen: Tensor,
    action: Tensor,
    random_ids: Tensor,
    *,
    who: str = "chosen",
    masked: float = 0.8,
    replaced: tuple[float, float] = (0.8, 0.9),
    labels: str = "originals",
    acts_on: str = "targets",
    number: str = "action",
    exchanged: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mask with one thing done in another way."""
    targets = {
        "chosen": (chosen < 0.15) & ~special,
        "specials, too": chosen < 0.15,
        "specials only": (chosen < 0.15) & special,
        "the others": (chosen >= 0.15) & ~special,
        "all": ~special,
    }[who]
    touched = targets if acts_on == "targets" else ~special
    if acts_on == "everything":
        touched = torch.ones_like(special)
    if number == "chosen":
        action = chosen / 0.15
    hidden = touched & (action < masked)
    drawn = touched & (action >= replaced[0]) & (action < replaced[1])
    inputs = random_ids.where(drawn, tokens.masked_fill(hidden, mask_id))
    where = {
        "originals": targets,
        "masked": hidden,
        "changed": hidden | drawn,
        "not chosen": ~targets,
        "everywhere": torch.ones_like(targets),
        "not special": ~special,
    }.get(labels, targets)
    values = inputs if labels == "inputs" else tokens
    rest = {"zeros": 0, "minus one": -1, "mask ids": mask_id}.get(labels, -100)
    result = values.masked_fill(~where, rest)
    return (result, inputs) if exchanged else (inputs, result)


MISTAKES = (
    Mistake(
        "special tokens are chosen, too",
        partial(wrong_masking, who="specials, too"),
        "Your labels are above 0 at start tokens, separators or padding.",
        "A special token is never chosen.",
    ),
    Mistake(
        "only special tokens are chosen",
        partial(wrong_masking, who="specials only"),
        "Your labels are those of special tokens.",
        "special is True where nothing may be chosen.",
    ),
    Mistake(
        "the other 85 % are chosen",
        partial(wrong_masking, who="the others"),
        "Your labels stand at most of the tokens.",
        "chosen < 0.15 is true for 15 % of them.",
    ),
    Mistake(
        "all tokens are chosen",
        partial(wrong_masking, who="all"),
        "Your labels stand at all ordinary tokens: chosen is not used.",
        "Only 15 % of the tokens are chosen.",
    ),
    Mistake(
        "tokens that are not chosen are masked, too",
        partial(wrong_masking, acts_on="ordinary"),
        "Your labels are right, and your inputs are masked nearly everywhere.",
        "80, 10 and 10 % are shares of the chosen tokens.",
    ),
    Mistake(
        "all tokens, also special ones, are masked",
        partial(wrong_masking, acts_on="everything"),
        "Your labels are right, and your inputs are masked nearly everywhere.",
        "80, 10 and 10 % are shares of the chosen tokens.",
    ),
    Mistake(
        "all chosen tokens are masked",
        partial(wrong_masking, masked=2.0, replaced=(3.0, 3.0)),
        "None of your chosen tokens is random or left as it is.",
        "action decides between three cases.",
    ),
    Mistake(
        "no token is left as it is",
        partial(wrong_masking, replaced=(0.8, 2.0)),
        "All your chosen tokens are masked or random.",
        "The last tenth stays as it is.",
    ),
    Mistake(
        "no token is random",
        partial(wrong_masking, replaced=(3.0, 3.0)),
        "All your chosen tokens are masked or as they were.",
        "A tenth becomes the token of random_ids.",
    ),
    Mistake(
        "the last two tenths are exchanged",
        partial(wrong_masking, replaced=(0.9, 2.0)),
        "Your tokens from 0.8 to 0.9 stay, and those above 0.9 are random.",
        "The random tenth comes first.",
    ),
    Mistake(
        "nine tenths are random",
        partial(wrong_masking, replaced=(-1.0, 0.9)),
        "None of your tokens is masked: random ids overwrite all below 0.9.",
        "Random is only for 0.8 <= action < 0.9.",
    ),
    Mistake(
        "the first tenth is random",
        partial(wrong_masking, replaced=(-1.0, 0.1)),
        "Your tokens with action < 0.1 are random, and those from 0.8 to 0.9 stay.",
        "The random tenth lies between 0.8 and 0.9.",
    ),
    Mistake(
        "a tenth of the rest is random",
        partial(wrong_masking, replaced=(0.8, 0.82)),
        "Your random tokens are 2 % of the chosen: a tenth of the remaining fifth.",
        "Each tenth is one of all chosen tokens.",
    ),
    Mistake(
        "the number that chooses also decides",
        partial(wrong_masking, number="chosen"),
        "Your cases depend on chosen instead of action.",
        "Which argument have you not used?",
    ),
    Mistake(
        "there are labels everywhere",
        partial(wrong_masking, labels="everywhere"),
        "Your labels have no -100: the loss would count every token.",
        "Only chosen tokens are predicted.",
    ),
    Mistake(
        "there are labels at all ordinary tokens",
        partial(wrong_masking, labels="not special"),
        "Your labels are -100 at special tokens only.",
        "Only chosen tokens are predicted.",
    ),
    Mistake(
        "the labels are inverted",
        partial(wrong_masking, labels="not chosen"),
        "Your labels are -100 at the chosen tokens.",
        "Chosen tokens are predicted.",
    ),
    Mistake(
        "only masked tokens have labels",
        partial(wrong_masking, labels="masked"),
        "Your labels are -100 at random and unchanged tokens that were chosen.",
        "All chosen tokens are predicted, whatever became of them.",
    ),
    Mistake(
        "only changed tokens have labels",
        partial(wrong_masking, labels="changed"),
        "Your labels are -100 at chosen tokens that stay as they are.",
        "All chosen tokens are predicted, whatever became of them.",
    ),
    Mistake(
        "the labels are the masked ids",
        partial(wrong_masking, labels="inputs"),
        "Your labels are mask_id wherever a token was masked.",
        "What should the model predict?",
    ),
    Mistake(
        "the labels are 0 elsewhere",
        partial(wrong_masking, labels="zeros"),
        "Your labels are 0 where there is no loss: that is an ordinary id.",
        "-100 is what cross_entropy ignores.",
    ),
    Mistake(
        "the labels are -1 elsewhere",
        partial(wrong_masking, labels="minus one"),
        "Your labels are -1 where there is no loss.",
        "-100 is what cross_entropy ignores.",
    ),
    Mistake(
        "the two results are exchanged",
        partial(wrong_masking, exchanged=True),
        "Your first result has -100 in it.",
        "The input ids come first.",
    ),
)


EXERCISE = Exercise(
    number="8.1",
    title="BERT's masked tokens",
    task=TASK.strip(),
    solve=mask_tokens,
    draws=draws,
    mistakes=MISTAKES,
    hint="Make one boolean tensor for each case: chosen, masked, replaced. Then fill.",
    remark=(
        "`qkv.data.masking.Masking` draws its own numbers anew for each epoch, so that a text is "
        "masked elsewhere each time."
    ),
)
