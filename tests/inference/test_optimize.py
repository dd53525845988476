"""Optimized models against the models that they were made from, in float64."""

import copy

import pytest
import torch
from torch import nn

from qkv.attention.heads import disable_heads
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.positions import Rotary
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError, VocabularyError
from qkv.generation.beam import beam_search
from qkv.generation.greedy import greedy
from qkv.generation.ranking import Beam
from qkv.inference.build import kernel
from qkv.inference.decoder import FastStack, unit_turns
from qkv.inference.modules import FastAttention, PackedEmbedding, PackedLinear
from qkv.inference.optimize import optimize
from qkv.inference.packed import PACKINGS
from qkv.models.bart import Bart, BartConfig
from qkv.models.bert import Bert, BertConfig
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.llama import Llama, LlamaConfig
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.t5 import T5, T5Config
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.training.loop import train
from qkv.training.settings import Training

VOCAB = 37
SIZES = {"d_model": 32, "n_heads": 2, "d_ff": 44}
STACKS = {"n_encoder_layers": 2, "n_decoder_layers": 3}
LLAMA = {**SIZES, "vocab_size": VOCAB, "n_layers": 2}
VOCABS = {"source_vocab_size": VOCAB, "target_vocab_size": VOCAB}
SMALL_GPT = GPTConfig(vocab_size=VOCAB, n_positions=64, n_layers=3, **SIZES)

CAUSAL = {
    "gpt": lambda: GPT(SMALL_GPT),
    "gpt, gelu": lambda: GPT(GPTConfig(vocab_size=VOCAB, n_layers=1, activation="gelu", **SIZES)),
    "llama": lambda: Llama(LlamaConfig(**LLAMA)),
    "llama, grouped": lambda: Llama(
        LlamaConfig(
            **LLAMA | {"n_heads": 4, "n_kv_heads": 2, "d_head": 6, "feed_forward": "geglu"},
            qkv_bias=True,
            tied_output=True,
        )
    ),
    "llama, a part turns": lambda: Llama(
        LlamaConfig(**LLAMA, rotary_share=0.5, output_bias=True, feed_forward_bias=True)
    ),
    "llama, relu": lambda: Llama(LlamaConfig(**LLAMA | {"feed_forward": "relu"})),
}
TRANSLATORS = {
    "transformer": lambda: Transformer(TransformerConfig(**VOCABS, **SIZES, **STACKS)),
    "transformer, pre-norm": lambda: Transformer(
        TransformerConfig(**VOCABS, **SIZES, **STACKS, norm_first=True, feed_forward="geglu_tanh")
    ),
    "transformer, rms": lambda: Transformer(
        TransformerConfig(**VOCABS, **SIZES, **STACKS, norm="rms", feed_forward="silu")
    ),
    "bart": lambda: Bart(BartConfig(vocab_size=VOCAB, n_positions=64, **SIZES, **STACKS)),
}
# The kernel has no step for these; their layers are packed all the same.
OTHERS = {
    "window": lambda: Llama(LlamaConfig(**LLAMA, window=3)),
    "t5": lambda: T5(T5Config(vocab_size=VOCAB, **SIZES, **STACKS, d_head=8)),
}


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Many rows by the expanded weights; what is faster rounds, see test_products.py."""
    monkeypatch.setattr("qkv.inference.modules.fast_int8", lambda: False)
    monkeypatch.setattr("qkv.inference.modules.fast_bfloat16", lambda: False)


needs_kernel = pytest.mark.skipif(not kernel(), reason="there is no C++ compiler")


def randomized(model: nn.Module) -> nn.Module:
    """Give every parameter a random value: zeros and ones would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def twins(make, dtype="float32"):
    """Return an optimized model, and in float64 one with the weights that it computes with."""
    model = randomized(make())
    fast, reference = optimize(model, dtype), copy.deepcopy(model).double()
    packed = dict(fast.named_modules())
    with torch.no_grad():
        for name, module in reference.named_modules():
            if isinstance(packed[name], (PackedLinear, PackedEmbedding)):
                module.weight.copy_(packed[name].weight)
    return fast, reference


def run(model, source, *, chunks, mask=None):
    """Return the logits of steps of several sizes, after the state was put through its paces."""
    state, logits = model.start(source, mask), []
    for tokens in chunks:
        logits.append(model.step(tokens, state))
    state.reorder(torch.tensor([2, 0, 2]))
    logits.append(model.step(chunks[0], state))
    state.rewind(1)
    logits.append(model.step(chunks[1], state))
    return torch.cat([part.flatten() for part in logits]).double()


def close(ours, reference, bound=2e-5):
    assert (ours - reference).abs().max() <= bound * reference.abs().max()


SIZES_OF_STEPS = [1, 1, 3, 1, 5, 1, 2]


def steps():
    return [torch.randint(VOCAB, (3, n)) for n in SIZES_OF_STEPS]


@pytest.mark.parametrize("dtype", PACKINGS)
@pytest.mark.parametrize("make", [*CAUSAL.values(), *TRANSLATORS.values(), *OTHERS.values()])
def test_steps_equal_those_of_the_model_in_float64(make, dtype):
    fast, reference = twins(make, dtype)
    source, chunks = torch.randint(VOCAB, (3, 5)), steps()
    mask = torch.tensor([[False, True, True, True, True], [True] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        for real in (None, mask):
            ours = run(fast, source, chunks=chunks, mask=real)
            close(ours, run(reference, source, chunks=chunks, mask=real))


@pytest.mark.parametrize("dtype", PACKINGS)
@pytest.mark.parametrize("make", CAUSAL.values())
def test_forward_equals_the_model_in_float64(make, dtype):
    fast, reference = twins(make, dtype)
    tokens = torch.randint(VOCAB, (2, 13))
    close(fast(tokens).double(), reference(tokens))


@needs_kernel
@pytest.mark.parametrize("make", [*CAUSAL.values(), *TRANSLATORS.values()])
def test_the_kernel_computes_the_step(make, monkeypatch):
    fast, calls = optimize(randomized(make())), []
    decode = torch.ops.qkv.decode
    monkeypatch.setattr(torch.ops.qkv, "decode", lambda *a: calls.append(1) or decode(*a))
    state = fast.start(torch.randint(VOCAB, (3, 5)))
    for tokens in steps()[:4]:
        fast.step(tokens, state)
    # The first step of a translator computes the keys and values of its source.
    assert len(calls) == 4 - isinstance(fast, (Transformer, Bart))


@pytest.mark.parametrize("make", OTHERS.values())
def test_a_mechanism_that_the_kernel_does_not_know_keeps_its_stack(make):
    fast = optimize(make())
    assert not any(isinstance(module, FastStack) for module in fast.modules())
    assert any(isinstance(module, PackedLinear) for module in fast.modules())


@pytest.mark.parametrize("make", [*CAUSAL.values(), *TRANSLATORS.values()])
def test_joined_equals_apart(make):
    fast = optimize(randomized(make()))
    first, second = torch.randint(VOCAB, (2, 5)), torch.randint(VOCAB, (1, 3))
    states = [fast.start(first), fast.start(second)]
    begun = [torch.randint(VOCAB, (2, 4)), torch.randint(VOCAB, (1, 2))]
    for state, tokens in zip(states, begun, strict=True):
        fast.step(tokens, state)
    new = torch.randint(VOCAB, (3, 1))
    apart = [copy.deepcopy(state) for state in states]
    expected = torch.cat([fast.step(new[:2], apart[0]), fast.step(new[2:], apart[1])])
    states[0].join(states[1])
    close(fast.step(new, states[0]).double(), expected.double())


def test_decoding_gives_the_same_answers():
    model = randomized(CAUSAL["llama"]())
    fast = optimize(model)
    prompt = torch.randint(VOCAB, (3, 6))
    options = {"start": prompt[:, -1], "stop": -1, "max_length": 11}
    assert torch.equal(
        greedy(fast, prompt[:, :-1], **options), greedy(model, prompt[:, :-1], **options)
    )


def test_beam_search_gives_the_same_answers():
    model = randomized(TRANSLATORS["transformer"]())
    fast, source = optimize(model), torch.randint(VOCAB, (2, 6))
    options = {"start": 1, "stop": 2, "max_length": 9, "beam": Beam(size=3)}
    ours, theirs = beam_search(fast, source, **options), beam_search(model, source, **options)
    assert [[a.tokens for a in each] for each in ours] == [[a.tokens for a in x] for x in theirs]


def test_attention_can_be_recorded():
    model = randomized(CAUSAL["llama, grouped"]())
    fast, tokens, weights = optimize(model), torch.randint(VOCAB, (2, 7)), []
    for each in (fast, model):
        with record_attention(each) as record:
            state = each.start(tokens[:, :4])
            for i in (4, 5, 6):
                each.step(tokens[:, i : i + 1], state)
        weights.append(dict(record))
    assert weights[0].keys() == weights[1].keys()
    for name, ours in weights[0].items():
        torch.testing.assert_close(ours, weights[1][name], rtol=1e-5, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", ["gpt", "bart"])
def test_a_recorded_block_runs_by_itself(name, layer, monkeypatch):
    model = randomized({**CAUSAL, **TRANSLATORS}[name]())
    fast, calls, found = optimize(model), [], []
    decode = torch.ops.qkv.decode
    monkeypatch.setattr(torch.ops.qkv, "decode", lambda *a: calls.append(a[6][0]) or decode(*a))
    source, tokens = torch.randint(VOCAB, (2, 5)), torch.randint(VOCAB, (2, 1))
    watched = f"{'stack' if name == 'gpt' else 'decoder'}.blocks.{layer}.self_attention"
    for each in (fast, model):
        state = each.start(source)
        each.step(tokens, state)
        calls.clear()
        with record_attention(each, layers=[watched], heads=[1]) as weights:
            logits = each.step(tokens, state)
        found.append((logits, weights[watched]))
        if each is fast:  # the blocks before it, and those after it
            assert sum(calls) == 2
    close(found[0][0].double(), found[1][0].double())
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


def test_heads_can_be_disabled():
    model = randomized(CAUSAL["gpt"]())
    fast, tokens, logits = optimize(model), torch.randint(VOCAB, (2, 5)), []
    for each in (fast, model):
        with disable_heads(each, "stack.blocks.1.self_attention", [1]):
            state = each.start(tokens)
            logits.append(each.step(tokens[:, :1], state))
    close(*logits)


def test_the_model_stays_as_it_was():
    model = CAUSAL["gpt"]().train()
    before = copy.deepcopy(model.state_dict())
    fast = optimize(model, "int8")
    assert model.training
    assert not fast.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in fast.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_is_not_packed_is_shared():
    model = CAUSAL["gpt"]()
    fast = optimize(model, "int8")
    assert fast.positions.table.weight.data_ptr() == model.positions.table.weight.data_ptr()
    # A tied output layer is the embedding, as before.
    assert fast.head.packed.data_ptr() == fast.embedding.packed.data_ptr()


def test_queries_keys_and_values_lie_together():
    attention = optimize(CAUSAL["gpt"](), "int8").stack.blocks[0].self_attention
    pointers = [part.packed.data_ptr() for part in (attention.query, attention.key)]
    assert pointers[1] - pointers[0] == 32 * 32


def small_bert():
    config = BertConfig(vocab_size=VOCAB, n_positions=16, n_layers=2, n_segments=2, **SIZES)
    return randomized(Bert(config))


@pytest.mark.parametrize("dtype", ["float32", "int4"])
@pytest.mark.parametrize("batch", [1, 5])
def test_an_encoder_projects_queries_keys_and_values_together(batch, dtype, monkeypatch):
    bert = small_bert()
    fast, tokens = optimize(bert, dtype), torch.randint(VOCAB, (batch, 11))
    mask = torch.rand(batch, 11) > 0.3
    mask[:, 0] = True
    for token_mask in (None, mask):
        together = fast(tokens, token_mask=token_mask)
        with monkeypatch.context() as patch:
            patch.setattr(FastAttention, "forward", MultiHeadAttention.forward)
            close(together, fast(tokens, token_mask=token_mask))


def test_what_hooks_into_an_optimized_encoder_is_called():
    fast, tokens, seen = optimize(small_bert()), torch.randint(VOCAB, (2, 11)), list[str]()
    block = fast.stack.blocks[0]
    parts = {
        "query": block.self_attention.query,
        "key": block.self_attention.key,
        "up": block.feed_forward.up,
    }
    plain = fast(tokens)
    for name, part in parts.items():
        handle = part.register_forward_hook(lambda _m, _x, y, name=name: seen.append(name))
        close(fast(tokens), plain)
        handle.remove()
    fast(tokens)
    assert seen == list(parts)


def test_a_hook_before_the_activation_sees_what_the_model_has_there():
    bert = small_bert()
    tokens, seen = torch.randint(VOCAB, (2, 11)), list[torch.Tensor]()
    for model in (bert, optimize(bert)):
        up = model.stack.blocks[1].feed_forward.up
        up.register_forward_hook(lambda _m, _x, y: seen.append(y))
        model(tokens)
    close(*seen)
    assert (seen[0] < -0.2).any()  # lower than a GELU gets


def test_encoders_and_recurrent_models_are_packed():
    bert = small_bert()
    tokens = torch.randint(VOCAB, (2, 7))
    close(optimize(bert)(tokens).double(), copy.deepcopy(bert).double()(tokens))
    rnn = RNNSeq2Seq(RNNConfig(**VOCABS, d_embedding=8, d_hidden=8)).eval()
    target = torch.randint(VOCAB, (2, 4))
    close(optimize(rnn)(tokens, target), rnn(tokens, target))


def test_turns_are_what_rotation_does():
    for layout in ("halves", "interleaved"):
        rotary = Rotary(10, layout=layout, width=6)
        x, positions = torch.randn(1, 1, 5, 10), torch.randint(50, (5,))
        turned, wave = rotary(x, positions)[0, 0], unit_turns(rotary, positions)
        first = slice(0, 3) if layout == "halves" else slice(0, 6, 2)
        second = slice(3, 6) if layout == "halves" else slice(1, 6, 2)
        a, b = x[0, 0, :, first], x[0, 0, :, second]
        cos, sin = wave[:, first], wave[:, second]
        torch.testing.assert_close(turned[:, first], a * cos - b * sin)
        torch.testing.assert_close(turned[:, second], a * sin + b * cos)


def test_blocks_that_differ_are_not_decoded_by_the_kernel():
    config = BlockConfig(d_model=8, n_heads=2, d_ff=12, causal=True)
    wider = BlockConfig(d_model=8, n_heads=4, d_ff=12, causal=True)
    stack = Stack(config, 2, make_block=lambda i: Block((config, wider)[i]))
    assert type(optimize(nn.Sequential(stack))[0]) is Stack


def test_bad_input():
    with pytest.raises(ConfigError, match="dtype = 'int3'; expected one of float32, bfloat16"):
        optimize(CAUSAL["gpt"](), "int3")
    with pytest.raises(ConfigError, match="on meta; expected a model of floating-point numbers"):
        optimize(CAUSAL["gpt"]().to("meta"))
    fast = optimize(CAUSAL["gpt"]())
    with pytest.raises(ConfigError, match="dtype = 'int8', but this model is stored as float32"):
        optimize(fast, "int8")
    assert optimize(fast) is optimize(fast, "auto") is fast
    with pytest.raises(ConfigError, match="packed weights cannot be trained"):
        train(fast, [], lambda model, batch: model(batch), Training(steps=1))
    with pytest.raises(ConfigError, match=r"cannot be converted to torch.float64 on cpu"):
        fast.double()
    fast.float()
    with pytest.raises(VocabularyError, match=r"ids from 0 to 37, but the vocabulary has 37"):
        fast(torch.tensor([[0, 37]]))
    broken = CAUSAL["gpt"]()
    broken.stack.blocks[0].feed_forward.up.weight.data[3, 5] = float("nan")
    with pytest.raises(ConfigError, match="the weights are not finite"):
        optimize(broken)
