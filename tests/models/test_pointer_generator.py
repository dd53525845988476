"""The pointer-generator: a mixture of writing and copying, and its laws while decoding."""

import pytest
import torch
from tests.helpers import assert_as_exact, assert_close, randomized, right_mask, to_left

from qkv.errors import ConfigError
from qkv.generation.beam import beam_search
from qkv.generation.greedy import greedy
from qkv.generation.ranking import Beam
from qkv.models.pointer_generator import PointerGenerator, PointerGeneratorConfig

B, S, T, V = 3, 5, 7, 37
SIZES = {
    "vocab_size": V,
    "n_positions": 41,
    "d_encoder": 22,
    "n_encoder_heads": 11,
    "d_encoder_ff": 29,
    "n_encoder_layers": 2,
    "d_model": 26,
    "n_heads": 13,
    "d_ff": 31,
    "n_layers": 2,
    "dropout": 0.0,
}


def make(dtype=torch.float64):
    return randomized(PointerGenerator(PointerGeneratorConfig(**SIZES)), dtype)


def problem():
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(V, (B, S), generator=generator)
    target = torch.randint(V, (B, T), generator=generator)
    return source, target, right_mask([5, 2, 3], S)


def test_the_mixture_sums_to_one():
    source, target, mask = problem()
    log_p = make()(source, target, source_mask=mask)
    assert log_p.shape == (B, T, V)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(B, T).double(), rtol=0, atol=1e-12)
    assert log_p.std() > 0.5


def test_the_mixture_is_that_of_the_paper():
    """Eq. 9, token by token."""
    model = make()
    source, target, mask = problem()
    model.requires_grad_(False)
    hidden, copy, gate = model.decode(model.encode(source, mask), target, source_mask=mask)
    log_p = model(source, target, source_mask=mask)
    p_gen = 1 / (1 + (-gate).exp())
    written = model.write(hidden).softmax(-1)
    for b, t, w in [(0, 0, int(source[0, 1])), (1, 3, int(source[1, 0])), (2, 6, 11)]:
        copied = sum(float(copy[b, t, i]) for i in range(S) if source[b, i] == w)
        expected = p_gen[b, t] * written[b, t, w] + (1 - p_gen[b, t]) * copied
        assert float(log_p[b, t, w].exp()) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("gate", [-1e3, 1e3])
def test_a_gate_leaves_one_of_the_two(gate):
    model = make()
    with torch.no_grad():
        model.gate.weight.zero_()
        model.gate.bias.fill_(gate)
    source, target, mask = problem()
    p = model(source, target, source_mask=mask).exp()
    hidden, copy, _ = model.decode(model.encode(source, mask), target, source_mask=mask)
    if gate > 0:
        assert_close(p, model.write(hidden).softmax(-1))
        return
    inside = torch.zeros(B, V, dtype=torch.bool)
    for b, n in enumerate([5, 2, 3]):
        inside[b, source[b, :n]] = True
    held = inside[:, None].expand(B, T, V)
    torch.testing.assert_close((p * held).sum(-1), torch.ones(B, T).double())
    assert (p * ~held).max() < 1e-300
    assert_close((copy * right_mask([5, 2, 3], S)[:, None]).sum(-1), torch.ones(B, T).double())


def test_the_loss_is_the_mixture_at_the_real_targets():
    model = make()
    source, target, mask = problem()
    real = right_mask([7, 4, 1], T)
    answers = target.roll(-1, 1)
    log_p = model(source, target, source_mask=mask)
    expected = -log_p.gather(-1, answers[..., None])[..., 0][real].sum()
    masks = {"source_mask": mask, "target_mask": real}
    ours = model.loss(model.encode(source, mask), source, target, answers, **masks)
    # The logarithms are in float32.
    narrow = -log_p.float().gather(-1, answers[..., None])[..., 0][real].sum()
    assert_as_exact(ours, narrow, expected)


def test_the_loss_is_finite_where_neither_term_is():
    """A target that is nowhere in the source, under a gate that never writes."""
    model = make(torch.float32)
    with torch.no_grad():
        model.gate.weight.zero_()
        model.gate.bias.fill_(-300.0)
    source = torch.full((1, S), 3)
    target = torch.full((1, 2), 5)
    masks = {"source_mask": source > 0, "target_mask": target > 0}
    model.loss(model.encode(source), source, target, target, **masks).backward()
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name
    assert model.gate.bias.grad < 0  # the gate is told to open


@pytest.mark.parametrize("pieces", [(7,), (1,) * 7, (3, 4)])
def test_cached_equals_uncached(pieces):
    model = make()
    source, target, mask = problem()
    state = model.start(source, mask)
    steps = [model.step(piece, state) for piece in target.split(pieces, 1)]
    assert state.length == T
    assert_close(torch.cat(steps, 1), model(source, target, source_mask=mask))


def test_reordered_rows_are_those_of_a_batch_in_that_order():
    model = make()
    source, target, mask = problem()
    rows = torch.tensor([2, 0, 0])
    state = model.start(source, mask)
    model.step(target[:, :3], state)
    state.reorder(rows)
    ours = model.step(target[rows, 3:], state)
    assert_close(ours, model(source[rows], target[rows], source_mask=mask[rows])[:, 3:])


def test_rewound_tokens_are_forgotten():
    model = make()
    source, target, mask = problem()
    state = model.start(source, mask)
    model.step(target.flip(1), state)
    state.rewind(0)
    assert_close(model.step(target, state), model(source, target, source_mask=mask))


def test_padding_changes_nothing():
    model = make()
    source, target, mask = problem()
    for b, n in enumerate([5, 2, 3]):
        alone = model(source[b : b + 1, :n], target[b : b + 1])
        assert_close(model(source, target, source_mask=mask)[b : b + 1], alone)
    left, left_mask = to_left(source, mask)
    assert_close(
        model(left, target, source_mask=left_mask), model(source, target, source_mask=mask)
    )


def test_no_token_sees_a_later_one():
    model = make()
    source, target, mask = problem()
    changed = target.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % V
    ours, other = (model(source, tokens, source_mask=mask) for tokens in (target, changed))
    assert_close(ours[:, :4], other[:, :4], 1e-13)
    assert (ours[:, 4] - other[:, 4]).abs().max() > 1e-3


def test_a_beam_of_one_is_greedy():
    model = make()
    source, _, mask = problem()
    options = {"token_mask": mask, "start": 1, "stop": 2, "max_length": 11}
    beams = beam_search(model, source, beam=Beam(size=1), **options)
    for (best,), tokens in zip(beams, greedy(model, source, **options).tolist(), strict=True):
        assert best.tokens == tokens[: len(best.tokens)]


def test_it_learns_to_copy():
    """The first token of the source: by pointing, as the vocabulary is too large for the steps."""
    torch.manual_seed(0)
    model = PointerGenerator(PointerGeneratorConfig(**SIZES))
    model.encoder.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    source = torch.randint(3, V, (29, S))
    masks = {"source_mask": source > 0, "target_mask": torch.ones(29, 1, dtype=torch.bool)}
    features, begun = model.encode(source), torch.ones(29, 1, dtype=torch.int64)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(features, source, begun, source[:, :1], **masks)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()) / 29)
    assert losses[-1] < 0.3 < 1.5 < losses[0]


def test_sizes_that_do_not_fit():
    with pytest.raises(ConfigError, match="n_heads"):
        PointerGenerator(PointerGeneratorConfig(**SIZES | {"n_heads": 5}))
    with pytest.raises(ConfigError, match="d_ff = 0; expected at least 1"):
        PointerGeneratorConfig(**SIZES | {"d_ff": 0})
