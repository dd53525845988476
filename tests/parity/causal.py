"""What the parity tests of causal families share: inputs, runs and comparisons."""

import copy

import torch
from tests.helpers import right_mask, to_left
from tests.parity.published import gradients, outputs_of
from tests.parity.reference import BOTH, agree, both_gradients, in_float64

from qkv.generation.greedy import greedy

VOCAB, LAYERS, CLASSES, PAD = 37, 3, 5, 1
B, L = 3, 13
LENGTHS = [13, 5, 8]
PADDINGS = ("none", "right", "left")


def texts(padding, width=L):
    """Ids and token mask; no real token has the id of padding."""
    mask = right_mask([width] * B if padding == "none" else LENGTHS, width)
    ids = torch.randint(2, VOCAB, (B, width))
    if padding == "left":
        ids, mask = to_left(ids, mask)
    return torch.where(mask, ids, PAD), mask


def run_theirs(theirs, ids, mask, padding):
    options = {}
    if padding != "none":
        options["attention_mask"] = mask.long()
    if padding == "left":
        options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return theirs(ids, **options, output_hidden_states=True, use_cache=False)


def compare_numbers(checkpoint, theirs, embedded, padding, folder, precisions=BOTH):
    """Compare hidden states, what the model returns, and all gradients.

    Args:
        checkpoint: loaded from theirs.
        theirs: the reference.
        embedded: the name of the module whose output enters our stack.
        padding: one of PADDINGS.
        folder: for gradients.
        precisions: as in `agree`.
    """
    ids, mask = texts(padding)

    def numbers(ours, theirs, dtype):
        body = getattr(ours, "encoder", ours)
        reference = run_theirs(theirs, ids, mask, padding)
        places = [getattr(body, embedded), *body.stack.blocks[:-1], body.stack.norm]
        with outputs_of(places) as states:
            logits = ours(ids, token_mask=None if padding == "none" else mask)
        found = {
            f"state {i}": (state[mask], expected[mask])
            for i, (state, expected) in enumerate(zip(states, reference.hidden_states, strict=True))
        }
        real = (slice(None),) if logits.ndim == 2 else mask
        found["output"] = logits[real], reference[0][real]
        both_gradients([found["output"]])
        return found | gradients(ours, theirs, checkpoint.config, folder)

    agree(numbers, checkpoint.model, theirs, precisions)


def compare_logits(ours, theirs, ids):
    """Compare what a causal language model returns for ids without padding."""

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            return {"logits": (ours(ids), theirs(ids).logits)}

    agree(numbers, ours, theirs)


def compare_decoding(model, theirs, n=9):
    """Compare greedy answers to prompts of different lengths, ours padded on either side.

    In float64: which of two tokens is a little more probable must not depend on the processor.
    """
    ids, mask = texts("left")
    model, theirs = copy.deepcopy(model).double(), in_float64(theirs)
    with torch.no_grad():
        expected = theirs.generate(
            ids, attention_mask=mask.long(), max_new_tokens=n, do_sample=False, eos_token_id=None
        )[:, L:]
    right = (~mask).long().argsort(dim=1, stable=True)
    for prompts, real in ((ids, mask), (ids.gather(1, right), mask.gather(1, right))):
        # Each row's last real token is what decoding begins with, and it differs from row to row.
        for row in range(B):
            prompt, shown = prompts[row : row + 1], real[row : row + 1]
            last = int(prompt[shown][-1])
            before = shown & (shown.long().cumsum(1) < shown.sum())
            answer = greedy(model, prompt, token_mask=before, start=last, stop=-1, max_length=n)
            assert answer[0].tolist() == expected[row].tolist()
