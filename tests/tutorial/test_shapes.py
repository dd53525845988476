import pytest
import torch
from tests.helpers import TARGET_VOCAB, B, S, T, problem, transformer
from torch import nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.tutorial.shapes import record_shapes


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_each_module_has_a_row_in_the_order_of_the_computation():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7))
    with record_shapes(model) as rows:
        model(torch.randn(2, 11, 3))
    assert rows == [
        {"module": "0", "kind": "Linear", "output": (2, 11, 5)},
        {"module": "1", "kind": "ReLU", "output": (2, 11, 5)},
        {"module": "2", "kind": "Linear", "output": (2, 11, 7)},
        {"module": "", "kind": "Sequential", "output": (2, 11, 7)},
    ]


def test_chosen_kinds():
    model, (source, target, mask) = transformer(), problem()
    with record_shapes(model, (MultiHeadAttention,)) as rows:
        model(source, target, source_mask=mask)
    assert len(rows) == 6
    assert rows[0] == {
        "module": "encoder.blocks.0.self_attention",
        "kind": "MultiHeadAttention",
        "output": (B, S, 22),
    }
    assert rows[-1]["output"] == (B, T, 22)
    with record_shapes(model) as rows:
        model(source, target, source_mask=mask)
    assert rows[-1] == {"module": "", "kind": "Transformer", "output": (B, T, TARGET_VOCAB)}


def test_a_module_without_one_tensor_is_left_out():
    model = nn.LSTM(3, 5)
    with record_shapes(model) as rows:
        model(torch.randn(2, 11, 3))
    assert rows == []


def test_the_hooks_are_gone_afterwards_also_after_an_error():
    model = nn.Linear(3, 5)
    with record_shapes(model) as rows:
        assert hooks(model) == 1
    model(torch.randn(2, 3))
    assert (hooks(model), rows) == (0, [])
    with pytest.raises(ZeroDivisionError), record_shapes(model):
        raise ZeroDivisionError
    assert hooks(model) == 0


def test_watching_changes_no_bit():
    model, (source, target, mask) = transformer(), problem()
    with torch.no_grad(), record_shapes(model):
        seen = model(source, target, source_mask=mask)
    assert torch.equal(seen, model(source, target, source_mask=mask))
