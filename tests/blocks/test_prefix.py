"""A prompt that rows share is computed once."""

import pytest
import torch

from qkv.blocks.state import shared_prefix, split_prefix
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.llama import Llama, LlamaConfig

SIZES = {"vocab_size": 37, "d_model": 22, "n_heads": 2, "d_ff": 31, "n_layers": 2}
MODELS = {
    "gpt": lambda: GPT(GPTConfig(**SIZES, n_positions=64)),
    "llama": lambda: Llama(LlamaConfig(**SIZES | {"d_model": 24})),
    "window": lambda: Llama(LlamaConfig(**SIZES | {"d_model": 24}, window=5)),
}


def padded(rows):
    """Pad rows on the left; return the tokens and the mask."""
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return tokens, mask


def test_the_prefix_is_what_all_rows_begin_with():
    tokens, mask = padded([[5, 6, 7, 8, 1], [5, 6, 7], [5, 6, 7, 9, 9, 2]])
    assert shared_prefix(tokens, mask) == 3
    prefix, rest, real = split_prefix(tokens, mask, 3)
    assert prefix.tolist() == [[5, 6, 7]]
    assert [row[m].tolist() for row, m in zip(rest, real, strict=True)] == [[8, 1], [], [9, 9, 2]]
    same = torch.tensor([[1, 2, 3], [1, 2, 4]])
    assert shared_prefix(same, None) == 2
    assert [part.tolist() for part in split_prefix(same, None, 2)[:2]] == [[[1, 2]], [[3], [4]]]


def test_one_row_and_padding_on_the_right_share_nothing():
    tokens = torch.ones(2, 5, dtype=torch.long)
    assert shared_prefix(tokens[:1], None) == shared_prefix(tokens[:, :0], None) == 0
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    assert shared_prefix(tokens, mask) == 0
    assert shared_prefix(tokens, ~mask) == 0  # a row without a real token


@pytest.mark.parametrize("make", MODELS.values())
@pytest.mark.parametrize("lengths", [(3, 1, 5), (4, 4, 4), (0, 2, 7)])
def test_it_changes_no_number(make, lengths, monkeypatch):
    model = make().double().eval()
    begun = torch.randint(37, (11,)).tolist()
    rows = [begun + torch.randint(37, (n,)).tolist() for n in lengths]
    tokens, mask = padded(rows)
    mask = None if bool(mask.all()) else mask
    new, logits = torch.randint(37, (3, 2)), []
    for least in (8, 10**9):
        monkeypatch.setattr("qkv.models.causal.LEAST_SHARED", least)
        state = model.start(tokens, mask)
        assert state.length == 0
        first = model.step(new, state)
        state.rewind(1)
        logits.append(torch.cat([first, model.step(new[:, :1], state)], 1))
    torch.testing.assert_close(*logits, rtol=1e-12, atol=1e-12)


def test_it_is_computed_once(monkeypatch):
    model, sizes = MODELS["gpt"](), []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda t, p: sizes.append(tuple(t.shape)) or embed(t, p))
    prompt = torch.randint(37, (1, 20)).repeat(4, 1)
    prompt[:, -2:] = torch.arange(8).view(4, 2)
    model.start(prompt)
    assert sizes == [(1, 18), (4, 2)]
