"""What T5 is made of, and how it starts."""

import math

import pytest
import torch
from tests.helpers import TARGET_VOCAB, B, S, T, assert_close, problem, right_mask, t5, to_left

from qkv.attention.record import record_attention
from qkv.errors import ConfigError
from qkv.generation.state import Decodable
from qkv.models.t5 import T5, T5Config, T5Encoder


def test_shapes_and_the_head():
    model, (source, target, mask) = t5(), problem()
    hidden = model.hidden(source, target, source_mask=mask)
    logits = model(source, target, source_mask=mask)
    assert (hidden.shape, logits.shape) == ((B, T, 23), (B, T, TARGET_VOCAB))
    assert torch.equal(logits, model.head(hidden))
    assert model.encode(source, mask).shape == (B, S, 23)
    assert isinstance(model, Decodable)


def test_layers_of_a_stack_share_one_bias_and_no_memory_has_one():
    model = t5()
    biases = []
    for stack, bidirectional in ((model.encoder, True), (model.decoder, False)):
        (bias,) = {block.self_attention.position_bias for block in stack.blocks}
        assert bias.bidirectional is bidirectional
        biases.append(bias)
    assert biases[0] is not biases[1]
    assert all(block.cross_attention.position_bias is None for block in model.decoder.blocks)
    tables = [name for name, _ in model.named_parameters() if "bias" in name]
    assert tables == [
        f"{stack}.blocks.0.self_attention.position_bias.table.weight"
        for stack in ("encoder", "decoder")
    ]


def test_scores_are_products_and_a_bias_and_nothing_divides_them():
    model, (source, target, _) = t5(), problem()
    with record_attention(model) as weights, torch.no_grad():
        model(source, target)
    block = model.encoder.blocks[0]
    with torch.no_grad():
        x = block.self_attention_residual.norm(model.embedding.weight[source])
        queries, keys = (
            layer(x).view(B, S, 3, 5).transpose(1, 2)
            for layer in (block.self_attention.query, block.self_attention.key)
        )
        places = torch.arange(S)
        scores = queries @ keys.mT + block.self_attention.position_bias(places, places)
    assert_close(weights["encoder.blocks.0.self_attention"], scores.softmax(-1))


def test_a_tied_output_layer_reads_smaller_states():
    tied, (source, target, _) = t5(tied_output=True), problem()
    untied = t5(tied_output=False)
    untied.load_state_dict(tied.state_dict())
    assert tied.head.weight is tied.embedding.weight
    assert_close(tied.hidden(source, target), untied.hidden(source, target) / math.sqrt(23))
    assert_close(tied.without_head()(source, target), untied.hidden(source, target))


@pytest.mark.parametrize(
    ("options", "n_parameters"),
    [
        ({}, 60_506_624),
        (
            {
                "d_ff": 1024,
                "n_heads": 6,
                "n_encoder_layers": 8,
                "n_decoder_layers": 8,
                "feed_forward": "geglu_tanh",
                "tied_output": False,
            },
            76_961_152,
        ),
    ],
    ids=["1.0", "1.1"],
)
def test_the_small_models(options, n_parameters):
    with torch.device("meta"):
        model = T5(T5Config(**options))
    assert sum(p.numel() for p in model.parameters()) == n_parameters


@pytest.mark.parametrize("tied", [True, False])
def test_it_starts_with_scores_and_logits_of_unit_order(tied):
    sizes = {"d_model": 131, "n_heads": 3, "d_head": 43, "d_ff": 257}
    model = T5(T5Config(vocab_size=TARGET_VOCAB, **sizes, tied_output=tied)).eval()
    source, target, _ = problem()
    assert 0.2 < model(source, target).std().item() < 3
    attention = model.encoder.blocks[0].self_attention
    x = torch.randn(1, 101, 131)
    queries = attention.queries(x, torch.arange(101)) / math.sqrt(43)
    keys, _ = attention.keys_values(x, torch.arange(101))
    assert 0.5 < (queries @ keys.mT).std().item() < 2


def test_padding_on_the_left_shifts_no_distance():
    model, (source, target, _) = t5(), problem()
    mask = right_mask([4, T, 2], T)
    moved, moved_mask = to_left(target, mask)
    right = model(source, target, target_mask=mask)[mask]
    assert_close(model(source, moved, target_mask=moved_mask)[moved_mask], right)


def test_impossible_buckets_are_refused():
    with pytest.raises(ConfigError, match="n_buckets = 3 makes 0 buckets of one distance each"):
        t5(n_buckets=3)


def test_the_encoder_alone_reads_as_it_does_below_a_decoder():
    model, (source, _, mask) = t5(), problem()
    alone = T5Encoder(model.config).double().eval()
    whole = {n.replace("encoder.", "stack."): p for n, p in model.state_dict().items()}
    alone.load_state_dict({name: whole[name] for name in alone.state_dict()})
    hidden = alone(source, token_mask=mask)
    assert torch.equal(hidden, model.encode(source, mask))
    left, left_mask = to_left(source, mask)
    assert_close(alone(left, token_mask=left_mask)[left_mask], hidden[mask])
    fresh = T5Encoder(T5Config(vocab_size=TARGET_VOCAB, n_encoder_layers=1))
    assert fresh.stack.blocks[0].self_attention.query.weight.detach().std() == pytest.approx(
        (512 * 64) ** -0.5, rel=0.05
    )
