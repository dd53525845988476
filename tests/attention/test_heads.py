import pytest
import torch
from tests.helpers import S, assert_close, problem, randomized, transformer

import qkv
from qkv.attention.heads import disable_heads
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.differential import DifferentialAttention
from qkv.errors import ConfigError

CROSS = "decoder.blocks.0.cross_attention"


def run(model):
    source, target, mask = problem()
    return model(source, target, source_mask=mask)


def test_disabling_no_head_changes_nothing():
    model = transformer()
    with torch.no_grad(), disable_heads(model, CROSS, []):
        silent = run(model)
    assert torch.equal(silent, run(model))


def test_disabling_all_heads_leaves_the_bias_of_the_output():
    module = randomized(MultiHeadAttention(24, 6, n_kv_heads=2))
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    with disable_heads(module, "attention", range(6)):
        out = module(x)
    assert torch.equal(out, module.output.bias.expand(2, 7, 24))


@pytest.mark.parametrize("head", [0, 3, 5])
def test_a_disabled_head_is_one_whose_columns_of_the_output_weight_are_zero(head):
    module = randomized(MultiHeadAttention(22, 6, d_head=5))
    x = torch.randn(2, 7, 22, dtype=torch.float64)
    before = module(x)
    with disable_heads(module, "attention", [head]):
        silent = module(x)
    with torch.no_grad():
        module.output.weight[:, head * 5 : (head + 1) * 5] = 0
    assert_close(silent, module(x))
    assert not torch.allclose(silent, before)


def test_a_differential_head_is_of_twice_the_width():
    module = randomized(DifferentialAttention(24, 3))
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    with disable_heads(module, "attention", [1]):
        silent = module(x)
    with torch.no_grad():
        module.output.weight[:, 8:16] = 0
    assert_close(silent, module(x))


def test_only_the_named_layer_is_silent():
    model = transformer()
    source, _, mask = problem()
    with torch.no_grad():
        memory = model.encode(source, mask)
        with disable_heads(model, CROSS, range(11)):
            assert torch.equal(model.encode(source, mask), memory)
            silent = run(model)
    assert memory.shape[1] == S
    assert not torch.allclose(silent, run(model))


def test_a_disabled_head_has_no_gradient():
    module = randomized(MultiHeadAttention(22, 11))
    x = torch.randn(2, 7, 22, dtype=torch.float64)
    with disable_heads(module, "attention", [4]):
        module(x).square().sum().backward()
    values = module.value.weight.grad.unflatten(0, (11, 2))
    assert (values.abs().sum((1, 2)) == 0).tolist() == [head == 4 for head in range(11)]


def test_heads_speak_again_afterwards_also_after_an_error():
    model = transformer()
    with torch.no_grad():
        before = run(model)
        with disable_heads(model, CROSS, [1]), disable_heads(model, CROSS, [4]):
            both = run(model)
        with disable_heads(model, CROSS, [1, 4]):
            assert torch.equal(both, run(model))
        assert torch.equal(before, run(model))
        with pytest.raises(ZeroDivisionError), disable_heads(model, CROSS, [1]):
            raise ZeroDivisionError
        assert torch.equal(before, run(model))


def test_a_layer_that_does_not_exist():
    with (
        pytest.raises(ConfigError, match=r"'encoder'; this Transformer has: encoder.blocks.0.self"),
        disable_heads(transformer(), "encoder", [0]),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="this Linear has: none"),
        disable_heads(torch.nn.Linear(2, 3), "attention", [0]),
    ):
        pass


@pytest.mark.parametrize("heads", [[0, 11], [-1]])
def test_a_head_that_does_not_exist(heads):
    with (
        pytest.raises(ConfigError, match=rf"heads \[{heads[0]}.*: it has 11, numbered 0 to 10"),
        disable_heads(transformer(), CROSS, heads),
    ):
        pass


def test_it_is_offered():
    assert qkv.disable_heads is disable_heads
