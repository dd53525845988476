"""Muon: which parameters it takes, one step by hand, and runs that resume to the bit."""

import pytest
import torch
from tests.helpers import llama, rnn
from tests.training.test_resume import assert_same, dying
from tests.training.toy import settings
from torch import nn

from qkv.blocks.config import BlockConfig
from qkv.blocks.stack import Stack
from qkv.data.pretraining import collate_causal
from qkv.errors import ConfigError, TrainingError
from qkv.training.checkpointing import Checkpoints
from qkv.training.loop import train
from qkv.training.muon import MuonWithAdamW, hidden_matrices, muon
from qkv.training.pretraining import causal_loss
from qkv.training.run import Callback
from qkv.training.settings import Training


def small():
    torch.manual_seed(0)
    return llama().model.float()


def newton_schulz(matrix):
    """Orthogonalize nearly (Jordan et al.): five times a X + (b A + c A A) X with A = X X^T."""
    x = matrix / matrix.norm()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_muon_takes_the_linear_layers_of_the_blocks_alone():
    model = small()
    optimizer = muon(model, learning_rate=0.1, weight_decay=0.3)
    first, *others = optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    taken = [names[id(p)] for p in first["params"]]
    assert taken == [n for n in names.values() if "blocks" in n and "norm" not in n]
    assert all(p.ndim == 2 for p in first["params"])
    rest = [names[id(p)] for group in others for p in group["params"]]
    assert sorted(taken + rest) == sorted(names.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1] * 3


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_two_steps_by_hand(shape):
    """In float64 but for the iteration itself, which torch computes in bfloat16."""
    config = BlockConfig(d_model=2, n_heads=1, d_ff=3)
    stack = Stack(config, 1, make_block=lambda i: nn.Linear(shape[1], shape[0], bias=False))
    weight = stack.blocks[0].weight
    before, momentum = weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    optimizer = muon(stack, learning_rate=0.1, weight_decay=0.5)
    for _ in range(2):
        gradient = torch.randn(shape)
        weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient.double()
        update = newton_schulz(0.05 * gradient.double() + 0.95 * momentum)
        before = before * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 5**0.5 * update
        # Rounding by up to 2^-8 in each of five iterations, which stretch it; a float32 step would
        # differ by 1e-6, and a wrong rate, momentum or coefficient by more than a tenth.
        assert (weight.detach() - before).norm() < 0.05 * (0.02 * 5**0.5) * update.norm()
        before = weight.detach().double()


def test_what_is_not_a_hidden_matrix_is_updated_by_adamw():
    ours, theirs = small(), small()
    optimizer = muon(ours, learning_rate=0.1, weight_decay=0.5)
    reference = Training(steps=1, learning_rate=0.1, weight_decay=0.5).make_optimizer(theirs)
    batch = collate_causal([[1, 2, 3, 4, 5]], pad=0)
    for model, one in ((ours, optimizer), (theirs, reference)):
        causal_loss(model, batch).backward()
        one.step()
    hidden = {id(p) for p in hidden_matrices(ours)}
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q) == (id(p) not in hidden)


def test_the_rate_of_the_schedule_reaches_both_parts_also_after_loading():
    optimizer = muon(small(), learning_rate=0.1)
    for _ in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.7
        assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.7}
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.step(lambda: 3) == 3


class Kept(Callback):
    def __init__(self):
        self.total, self.seen = torch.zeros(3), []


def run(folder, loss=causal_loss):
    model, kept = small(), Kept()
    generator = torch.Generator().manual_seed(5)

    def batches():
        while True:
            rows = torch.randint(1, 17, (3, 7), generator=generator)
            yield collate_causal(rows.tolist(), pad=0)

    callbacks = [kept, *([Checkpoints(folder, every=1)] if folder else [])]
    options = settings(steps=7, schedule="cosine", optimizer="muon", ema=0.9)
    history = train(model, batches(), loss, options, callbacks=callbacks, device="cpu")
    return model, kept, history


def test_a_run_that_dies_goes_on_to_the_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.training.test_resume.pair_loss", causal_loss)
    with pytest.raises(TrainingError, match="did not fit into memory"):
        run(tmp_path, loss=dying(4))
    assert_same(run(tmp_path), run(None))


def test_the_settings_make_it():
    optimizer = Training(steps=3, optimizer="muon", learning_rate=0.3).make_optimizer(small())
    assert type(optimizer) is MuonWithAdamW
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer = 'adam' is unknown; expected adamw"):
        Training(steps=3, optimizer="adam")
    with pytest.raises(ConfigError, match=r"with sharding = fsdp2; expected adamw, or no sharding"):
        Training(steps=3, optimizer="muon", sharding="fsdp2")
    options = Training(steps=3, optimizer="muon")
    with pytest.raises(ConfigError, match=r"with layer_decay = 0.9; expected null for layer_decay"):
        options.make_optimizer(small(), layer_decay=0.9)
    with pytest.raises(ConfigError, match=r"no linear layer in a stack of blocks of this RNNSeq2"):
        options.make_optimizer(rnn())
    frozen = small()
    frozen.stack.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"no linear layer .* this Llama trains; expected adamw"):
        options.make_optimizer(frozen)
