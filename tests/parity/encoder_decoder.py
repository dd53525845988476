"""What the parity tests of encoder-decoders share: inputs, runs and comparisons."""

from contextlib import contextmanager

import torch
from tests.helpers import right_mask, to_left
from tests.parity.published import gradients
from tests.parity.reference import BOTH, agree, both_gradients, in_float64

from qkv.checkpoints.checkpoint import load_checkpoint
from qkv.generation.greedy import greedy

VOCAB, PAD, START = 37, 1, 3
B, S, T = 3, 13, 7
# Heads of fewer numbers make gradients of queries so small that float32 knows them to 1e-5 only.
D, H, FF, ENCODER_LAYERS, DECODER_LAYERS, POSITIONS = 66, 3, 97, 3, 2, 41
SOURCE_LENGTHS, TARGET_LENGTHS = [13, 5, 8], [5, 7, 2]
PADDINGS = ("none", "right", "left")
# In the words that two families share.
SIZES = {
    "vocab_size": VOCAB,
    "d_model": D,
    "encoder_layers": ENCODER_LAYERS,
    "decoder_layers": DECODER_LAYERS,
    "encoder_attention_heads": H,
    "decoder_attention_heads": H,
    "encoder_ffn_dim": FF,
    "decoder_ffn_dim": FF,
    "max_position_embeddings": POSITIONS,
}
OUR_SIZES = {
    "d_model": D,
    "n_heads": H,
    "d_ff": FF,
    "n_encoder_layers": ENCODER_LAYERS,
    "n_decoder_layers": DECODER_LAYERS,
}
# Of their configs: nothing is forced, so that greedy means the most probable token.
TOKENS = {
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "decoder_start_token_id": START,
    "forced_eos_token_id": None,
}


def texts(padding, vocabularies=(VOCAB, VOCAB)):
    """Ids and masks of sources and targets; no real token has the id of padding."""
    found = []
    for vocab, lengths, width in zip(
        vocabularies, (SOURCE_LENGTHS, TARGET_LENGTHS), (S, T), strict=True
    ):
        mask = right_mask([width] * B if padding == "none" else lengths, width)
        ids = torch.randint(2, vocab, (B, width))
        if padding == "left":
            ids, mask = to_left(ids, mask)
        found += [torch.where(mask, ids, PAD), mask]
    return found


@contextmanager
def states_of(stack):
    """Collect what enters each block and what leaves the stack, as transformers counts states."""
    states = []
    hooks = [
        block.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        for block in stack.blocks
    ]
    factor = getattr(stack.norm, "factor", 1)  # they multiply later
    hooks.append(stack.register_forward_hook(lambda _, __, out: states.append(out / factor)))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def run_theirs(theirs, source, source_mask, target, target_mask):
    return theirs(
        input_ids=source,
        attention_mask=source_mask.long(),
        decoder_input_ids=target,
        decoder_attention_mask=target_mask.long(),
        output_hidden_states=True,
        use_cache=False,
    )


def states_of_theirs(output, source_mask, target_mask):
    """Real tokens only: of the encoder, of the decoder, and what the model returns."""
    return (
        [state[source_mask] for state in output.encoder_hidden_states],
        [state[target_mask] for state in output.decoder_hidden_states],
        output[0][target_mask],
    )


def row_by_row(theirs, source, source_mask, target, target_mask):
    """The states of each row alone and without padding, one after the other."""
    rows = []
    for row in range(B):
        ids = source[row : row + 1, source_mask[row]], target[row : row + 1, target_mask[row]]
        masks = [torch.ones_like(x).bool() for x in ids]
        output = run_theirs(theirs, ids[0], masks[0], ids[1], masks[1])
        rows.append(states_of_theirs(output, *masks))
    encoder, decoder, returned = zip(*rows, strict=True)
    joined = [
        [torch.cat(part) for part in zip(*states, strict=True)] for states in (encoder, decoder)
    ]
    return *joined, torch.cat(returned)


def compare_numbers(
    checkpoint, theirs, padding, folder, *, vocabularies=(VOCAB, VOCAB), alone=True, precisions=BOTH
):
    """Compare the states of every layer, what the model returns, and all gradients.

    Args:
        checkpoint: loaded from theirs.
        theirs: the reference.
        padding: one of PADDINGS.
        folder: for gradients.
        vocabularies: sizes of the source's and the target's.
        alone: whether theirs cannot take positions: left-padded rows are then compared with theirs
            alone.
        precisions: as in `agree`.
    """
    source, source_mask, target, target_mask = inputs = texts(padding, vocabularies)
    masks = {} if padding == "none" else {"source_mask": source_mask, "target_mask": target_mask}

    def numbers(ours, theirs, dtype):
        buffers = [b for b in theirs.buffers() if b.is_floating_point()]
        for buffer in buffers:  # the bias of their logits, which ours trains
            buffer.requires_grad_()
        if padding == "left" and alone:
            encoder, decoder, expected = row_by_row(theirs, *inputs)
        else:
            output = run_theirs(theirs, *inputs)
            encoder, decoder, expected = states_of_theirs(output, source_mask, target_mask)
        with states_of(ours.encoder) as ours_encoder, states_of(ours.decoder) as ours_decoder:
            logits = ours(source, target, **masks)[target_mask]
        pairs = {}
        for side, states, mask, references in (
            ("encoder", ours_encoder, source_mask, encoder),
            ("decoder", ours_decoder, target_mask, decoder),
        ):
            for i, (state, reference) in enumerate(zip(states, references, strict=True)):
                pairs[f"state {i} of the {side}"] = state[mask], reference
        pairs["output"] = logits, expected
        both_gradients([pairs["output"]])
        for buffer in buffers:
            buffer.requires_grad_(False)
            buffer.copy_(buffer.grad)
        return pairs | gradients(ours, theirs, checkpoint.config, folder)

    agree(numbers, checkpoint.model, theirs, precisions)


def compare_logits(ours, theirs, batch, padded=True):
    """Compare what the models return for a batch of `texts`."""
    source, source_mask, target, target_mask = batch
    masks = {"source_mask": source_mask} if padded else {}

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            logits = ours(source, target, **masks)[target_mask]
            return {"output": (logits, run_theirs(theirs, *batch)[0][target_mask])}

    agree(numbers, ours, theirs)


def learn(theirs, source, mask, answers):
    """Overfit theirs to a few answers: random weights say one token again and again."""
    target = torch.nn.functional.pad(answers[:, :-1], (1, 0), value=START)
    optimizer = torch.optim.Adam((p for p in theirs.parameters() if p.requires_grad), lr=0.01)
    for _ in range(40):
        output = theirs(source, mask.long(), decoder_input_ids=target, use_cache=False)
        loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def compare_decoding(theirs, folder, *, vocabularies=(VOCAB, VOCAB), n=11):
    """Compare greedy answers: with and without an end, padded on either side, after prefixes.

    In float64: which of two tokens is a little more probable must not depend on the processor.
    """
    source, mask, _, _ = texts("right", vocabularies)
    learn(theirs, source, mask, torch.randint(2, vocabularies[1], (B, n - 2)))
    theirs.save_pretrained(folder)
    model, theirs = load_checkpoint(folder, dtype=torch.float64).model, in_float64(theirs)

    def generate(**options):
        options = {"max_new_tokens": n, **options}
        return theirs.generate(source, attention_mask=mask.long(), do_sample=False, **options)

    expected = generate()[:, 1:]
    assert len(set(expected.flatten().tolist())) > n
    stop = int(expected[0, 5])  # ends at least one answer early
    ended = generate(eos_token_id=stop)[:, 1:].tolist()
    for ids, real in ((source, mask), to_left(source, mask)):
        options = {"token_mask": real, "start": START, "max_length": n}
        assert torch.equal(greedy(model, ids, stop=-1, **options), expected)
        found = greedy(model, ids, stop=stop, **options).tolist()
        assert [until(x, stop) for x in found] == [until(x, stop) for x in ended]
    prefix = torch.randint(2, vocabularies[1], (B, 4))
    prefix[:, 0] = START
    expected = generate(decoder_input_ids=prefix)[:, 4:]
    with torch.no_grad():
        state, tokens, found = model.start(source, mask), prefix, []
        for _ in range(n):
            tokens = model.step(tokens, state)[:, -1:].argmax(-1)
            found.append(tokens)
    assert torch.equal(torch.cat(found, 1), expected)


def until(tokens, stop):
    """Return the tokens up to the first `stop`: what fills the rest is a matter of taste."""
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens
