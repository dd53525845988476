import threading

import pytest
import torch
from tests.helpers import B, S, T, problem, rnn, transformer

from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.multiplicative import DotAttention
from qkv.attention.record import record_attention
from qkv.attention.single_head import SingleHeadAttention
from qkv.errors import ConfigError, ShapeError

CROSS = "decoder.blocks.0.cross_attention"


def run(model):
    source, target, mask = problem()
    with torch.no_grad():
        return model(source, target, source_mask=mask)


def test_names_and_shapes():
    model = transformer()
    with record_attention(model) as weights:
        run(model)
    stack = [f"encoder.blocks.{i}.self_attention" for i in range(2)]
    stack += [
        f"decoder.blocks.{i}.{kind}_attention" for i in range(2) for kind in ("self", "cross")
    ]
    assert list(weights) == stack
    assert weights["encoder.blocks.1.self_attention"].shape == (B, 11, S, S)
    assert weights["decoder.blocks.1.self_attention"].shape == (B, 11, T, T)
    assert weights[CROSS].shape == (B, 11, T, S)
    with record_attention(model := rnn()) as weights:
        run(model)
    assert {name: w.shape for name, w in weights.items()} == {"decoder.attention": (B, 1, T, S)}


def test_chosen_layers_and_heads():
    model = transformer()
    with record_attention(model) as everything:
        run(model)
    with record_attention(model, layers=[CROSS], heads=[10, 0]) as some:
        run(model)
    assert list(some) == [CROSS]
    assert torch.equal(some[CROSS], everything[CROSS][:, [10, 0]])


def test_nothing_is_recorded_outside():
    model = transformer()
    with record_attention(model) as weights:
        pass
    run(model)
    assert len(weights) == 0
    with pytest.raises(KeyError, match=f"'{CROSS}' is not among the records: none"):
        weights[CROSS]


def test_recording_ends_with_an_exception():
    model = transformer()
    with pytest.raises(ZeroDivisionError), record_attention(model):
        _ = 1 / 0
    with record_attention(model) as weights:
        run(model)
    assert weights[CROSS].shape == (B, 11, T, S)


def test_another_thread_is_not_recorded():
    model = transformer()
    outputs = []
    with record_attention(model) as weights:
        thread = threading.Thread(target=lambda: outputs.append(run(model)))
        thread.start()
        thread.join()
        assert len(outputs) == 1
        assert len(weights) == 0
        assert torch.equal(run(model), outputs[0])
        assert len(weights) == 6


def test_unknown_layers_are_refused():
    message = r"under \['decoder.blocks.9'\]; this Transformer has: encoder.blocks.0.self_attention"
    with (
        pytest.raises(ConfigError, match=message),
        record_attention(transformer(), layers=[CROSS, "decoder.blocks.9"]),
    ):
        pass


def test_a_model_without_attention_is_refused():
    model = rnn(decoder="luong", score=None)
    with (
        pytest.raises(ConfigError, match="under any name; this RNNSeq2Seq has: none"),
        record_attention(model),
    ):
        pass


def test_recording_twice_is_refused_and_leaves_the_first():
    model = transformer()
    with record_attention(model) as weights:
        with (
            pytest.raises(ConfigError, match="already being recorded; leave that `with`"),
            record_attention(model, layers=[CROSS]),
        ):
            pass
        run(model)
    assert len(weights) == 6


def test_two_records_of_different_layers_may_be_open():
    model = transformer()
    with (
        record_attention(model, layers=[CROSS]) as one,
        record_attention(model, layers=["encoder.blocks.0.self_attention"]) as other,
    ):
        run(model)
    assert (len(one), len(other)) == (1, 1)


def test_steps_of_different_batches_cannot_be_joined():
    module = DotAttention(5, 5)
    with record_attention(module) as weights:
        for batch in (2, 3):
            module(torch.randn(batch, 1, 5), torch.randn(batch, 7, 5))
    with pytest.raises(ShapeError, match=r"'attention' changed .* \(sizes \[2, 3\]\)"):
        weights["attention"]


def test_an_attention_must_say_its_score():
    with pytest.raises(NotImplementedError, match="SingleHeadAttention does not define scores"):
        SingleHeadAttention()(torch.randn(2, 3, 5))


def test_heads_that_there_are_not_are_refused():
    attention = MultiHeadAttention(6, 2)
    with (
        record_attention(attention, heads=[1, 2]),
        pytest.raises(ConfigError, match=r"heads \[1, 2\] of .* has 2, numbered 0 to 1"),
    ):
        attention(torch.ones(1, 3, 6))
