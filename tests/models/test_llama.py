"""What the Llama family is made of, by its config, and what it refuses."""

import pytest
import torch
from tests.helpers import assert_close, randomized, unchecked

from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.blocks.norms import RMSNorm
from qkv.blocks.rotary_scaling import LinearScaling, YaRNScaling
from qkv.errors import ConfigError
from qkv.generation.state import Decodable
from qkv.models.llama import Llama, LlamaConfig

VOCAB, B, L, D = 19, 3, 11, 24


def config(**options):
    sizes = {"vocab_size": VOCAB, "d_model": D, "n_heads": 6, "d_ff": 29, "n_layers": 3}
    return LlamaConfig(**{**sizes, "n_kv_heads": 2, **options})


def llama(**options):
    return randomized(Llama(config(**options)))


def tokens(length=L):
    return torch.randint(VOCAB, (B, length))


def test_shapes():
    model, ids = llama(), tokens()
    hidden, logits = model.hidden(ids), model(ids)
    assert (hidden.shape, logits.shape) == ((B, L, D), (B, L, VOCAB))
    assert torch.equal(logits, model.head(hidden))
    assert isinstance(model, Decodable)


def test_it_is_embedding_stack_head():
    model, ids = llama(), tokens()
    assert_close(model.hidden(ids), model.stack(model.embedding.weight[ids]))
    assert_close(model(ids), model.hidden(ids) @ model.head.weight.T)


def test_it_has_no_biases_unless_asked_for():
    def biased(**options):
        names = {name for name, _ in Llama(config(**options)).named_parameters() if "bias" in name}
        return {name.removeprefix("stack.blocks.0.") for name in names if "blocks.0." in name}

    projections = {f"self_attention.{name}.bias" for name in ("query", "key", "value")}
    assert biased() == set()
    assert biased(qkv_bias=True) == projections
    assert biased(output_bias=True) == {"self_attention.output.bias"}
    assert biased(feed_forward_bias=True) == {
        f"feed_forward.{name}.bias" for name in ("gate", "up", "down")
    }
    norms = [m for m in Llama(config(norm_eps=0.1)).modules() if isinstance(m, RMSNorm)]
    assert [norm.eps for norm in norms] == [0.1] * 7


def test_parameters_of_a_published_size():
    with torch.device("meta"):
        model = Llama(
            LlamaConfig(vocab_size=32000, d_model=4096, n_heads=32, d_ff=11008, n_layers=32)
        )
        grouped = Llama(
            LlamaConfig(
                vocab_size=32000,
                d_model=4096,
                n_heads=32,
                n_kv_heads=8,
                d_ff=14336,
                n_layers=32,
                window=4096,
            )
        )
    assert sum(p.numel() for p in model.parameters()) == 6_738_415_616  # Llama 2 7B
    assert sum(p.numel() for p in grouped.parameters()) == 7_241_732_096  # Mistral 7B


def test_a_wide_head_and_tied_output():
    model = llama(d_head=10, tied_output=True)
    assert model.head.weight is model.embedding.weight
    assert model.stack.blocks[0].self_attention.query.weight.shape == (60, D)
    assert model.stack.blocks[0].self_attention.key.weight.shape == (20, D)
    assert model(tokens()).shape == (B, L, VOCAB)


def test_a_query_sees_as_many_tokens_as_the_window_says():
    model = llama(window=4, first_window_layer=1)
    with record_attention(model) as weights:
        model(tokens())
    n_seen = [(w > 0).sum(-1) for w in weights.values()]
    assert (n_seen[0] == torch.arange(1, L + 1)).all()
    for seen in n_seen[1:]:
        assert (seen == torch.arange(1, L + 1).clamp(max=4)).all()


def test_windows_are_the_same_function_where_they_see_all():
    plain, windowed = llama(d_head=10, qkv_bias=True), llama(d_head=10, qkv_bias=True, window=L)
    kinds = [type(block.self_attention) for block in windowed.stack.blocks]
    assert kinds == [SlidingWindowAttention] * 3
    assert type(plain.stack.blocks[0].self_attention) is MultiHeadAttention
    ids = tokens()
    assert_close(windowed(ids), plain(ids))
    longer = tokens(L + 1)
    assert (windowed(longer) - plain(longer))[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("window", [None, 5])
def test_scaling_reaches_every_layer(window):
    ids = tokens()
    scaled = llama(rotary_scaling=LinearScaling(factor=4.0), window=window)
    # Positions four times as far apart, divided by four.
    stretched = scaled(ids, positions=4 * torch.arange(L))
    assert_close(stretched, llama(window=window)(ids))
    for block in scaled.stack.blocks:
        block.self_attention.rotary.scaling = YaRNScaling(factor=1.0, original_length=3)
    assert_close(scaled(ids), llama(window=window)(ids))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window = 1; expected at least 2"),
        ({"rotary_share": 0.1}, "width = 0 of rotary positions; expected 2 to d_head = 4"),
        ({"n_kv_heads": 4}, "n_heads = 6 is not divisible by n_kv_heads = 4"),
        ({"d_head": 5}, "d_head = 5 is odd"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        Llama(config(**options))
