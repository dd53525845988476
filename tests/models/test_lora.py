"""LoRA: inert before training, equal when merged, and nothing else trains."""

import copy
import math

import pytest
import torch
from tests.helpers import B, S, assert_close, gpt, problem, randomized, rnn, t5, transformer
from torch import nn

from qkv.attention.heads import disable_heads
from qkv.attention.variants.latent import LatentAttention
from qkv.blocks.dropout import dropout as drop
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.positions import Rotary
from qkv.errors import ConfigError
from qkv.models.bert import Bert, BertConfig
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import SequenceClassifier
from qkv.models.lora import (
    LoRAConfig,
    LoRAEmbedding,
    LoRALinear,
    add_lora,
    attach_lora,
    lora_layers,
    merge_lora,
)

RANK, ALPHA, N_CLASSES = 3, 7.0, 5
PATTERNS = ("query|value", "feed_forward", "self_attention")
SEQ2SEQ = {"transformer": transformer, "t5": t5, "gpt": gpt, "rnn": rnn}


SIZES = {"vocab_size": 37, "n_positions": 41, "d_model": 22, "n_heads": 11, "d_ff": 29}
BERT = BertConfig(**SIZES, n_layers=2, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)


def classifier(dtype=torch.float64):
    return randomized(SequenceClassifier(Bert(BERT), N_CLASSES), dtype)


def randomize_updates(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        for factor in (layer.A, layer.B):
            factor.data.normal_(generator=generator)


def config(pattern="query|value", **options):
    return LoRAConfig(pattern=pattern, **{"rank": RANK, "alpha": ALPHA, **options})


def tokens():
    return torch.randint(37, (B, 13))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_before_training_the_output_is_the_same_to_the_bit(dtype, training):
    model, ids = classifier(dtype).train(training), tokens()
    before = model(ids)
    names = add_lora(model, config("encoder.stack", dropout=0.5))
    assert len(names) == 2 * 6
    assert torch.equal(model(ids), before)
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_equation_3(bias, rank_stabilized):
    base = nn.Linear(11, 13, bias=bias).double()
    layer = LoRALinear(base, config(rank_stabilized=rank_stabilized))
    nn.init.normal_(layer.B)
    x = torch.randn(5, 11).double()
    scale = ALPHA / (math.sqrt(RANK) if rank_stabilized else RANK)
    expected = base(x) + scale * torch.stack([layer.B @ (layer.A @ row) for row in x])
    assert_close(layer(x), expected)
    assert_close(nn.functional.linear(x, layer.weight, layer.bias), expected)


def test_a_starts_uniform_and_b_at_0():
    layer = LoRALinear(nn.Linear(1009, 7), config(rank=31))
    bound = 1009**-0.5
    assert 0.99 * bound < layer.A.abs().max() <= bound
    assert layer.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not layer.B.any()


def test_by_hand():
    layer = LoRALinear(nn.Linear(2, 2), LoRAConfig(rank=1, alpha=3.0))
    for parameter, values in (
        (layer.base.weight, [[1.0, 0.0], [0.0, 1.0]]),
        (layer.base.bias, [10.0, 20.0]),
        (layer.A, [[1.0, 2.0]]),
        (layer.B, [[1.0], [-1.0]]),
    ):
        parameter.data.copy_(torch.tensor(values))
    # A x = 1 + 2 * 2 = 5, and 3 * 5 is added to the first and taken from the second.
    assert layer(torch.tensor([1.0, 2.0])).tolist() == [1 + 10 + 15, 2 + 20 - 15]


@pytest.mark.parametrize("name", SEQ2SEQ)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_merged_is_unmerged(name, pattern):
    if name == "rnn":
        pattern = "attention|head|readout|bridge"
    model = SEQ2SEQ[name]()
    source, target, mask = problem()
    plain = model(source, target, source_mask=mask)
    kinds = {n: type(m) for n, m in model.named_modules()}
    names = add_lora(model, config(pattern, dropout=0.3))
    randomize_updates(model)
    expected = model(source, target, source_mask=mask)
    assert (expected - plain).abs().max() > 1e-3
    assert merge_lora(model) == names
    assert {n: type(m) for n, m in model.named_modules()} == kinds
    assert_close(model(source, target, source_mask=mask), expected)
    assert merge_lora(model) == []


def test_a_16_bit_weight_is_merged_in_float32():
    layer = LoRALinear(nn.Linear(11, 13).bfloat16(), config())
    nn.init.normal_(layer.B)
    update = layer.scale * layer.B.double() @ layer.A.double()
    expected = layer.base.weight.double() + update
    assert torch.equal(layer.merge().weight, expected.float().bfloat16())


def test_only_the_update_and_the_named_modules_get_gradients():
    model = classifier()
    names = add_lora(model, config(train=("classifier",)))
    randomize_updates(model)
    model(tokens()).sum().backward()
    expected = {f"{name}.{factor}" for name in names for factor in "AB"}
    expected |= {"classifier.output.weight", "classifier.output.bias"}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    assert all(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_gradients_are_those_of_the_merged_weight():
    layer, x = LoRALinear(nn.Linear(11, 13).double(), config()), torch.randn(5, 11).double()
    nn.init.normal_(layer.B)
    upstream = torch.randn(5, 13).double()
    layer(x).backward(upstream)
    slope = upstream.T @ x  # of the weight
    assert_close(layer.A.grad, layer.scale * layer.B.T @ slope)
    assert_close(layer.B.grad, layer.scale * slope @ layer.A.T)
    assert layer.base.weight.grad is None


def test_dropout_is_before_a_and_in_training_only():
    layer = LoRALinear(nn.Linear(1009, 7).double(), config(dropout=0.5))
    nn.init.normal_(layer.B)
    x = torch.ones(1, 1009).double()
    layer.A.data.fill_(1.0)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    layer.train()
    down = (layer(x) - layer.base(x)) / (layer.scale * layer.B.sum(1))
    kept = down / 2  # what stays is doubled
    assert_close(kept, kept.round())
    assert 400 < kept[0, 0] < 600
    assert torch.equal(layer.base(x), layer.base(x))


def test_a_layer_keeps_the_mode_and_the_place_of_its_base():
    model = classifier()
    add_lora(model, config(dropout=0.5))
    ids = tokens()
    assert torch.equal(model(ids), model(ids))
    assert not any(layer.training for layer in lora_layers(model).values())
    meta = LoRALinear(nn.Linear(11, 13, device="meta"), config())
    assert meta.A.is_meta
    assert meta.B.is_meta


def test_a_copy_trains_alone():
    model = classifier()
    add_lora(model, config())
    other = copy.deepcopy(model)
    randomize_updates(other)
    assert not any(layer.B.any() for layer in lora_layers(model).values())


def test_one_pattern_after_another_with_its_own_rank():
    model = classifier()
    first = add_lora(model, config("query"))
    second = add_lora(model, config("feed_forward.up", rank=2, train=("classifier",)))
    assert {n: layer.rank for n, layer in lora_layers(model).items()} == {
        **dict.fromkeys(first, RANK),
        **dict.fromkeys(second, 2),
    }
    assert all(layer.A.requires_grad for layer in lora_layers(model).values())


def test_the_layers_of_a_module_that_trains_get_no_update():
    model = classifier()
    names = add_lora(model, config(".", train=("classifier", "encoder.pooler")))
    assert len(names) == 2 * 6
    assert isinstance(model.classifier.output, nn.Linear)


def test_code_that_reads_the_matrix_sees_the_update():
    attention = LatentAttention(22, 11, d_latent=7, d_rotary=2, rotary=Rotary(2)).double()
    x = torch.randn(B, S, 22).double()
    root = nn.ModuleDict({"attention": attention})
    add_lora(root, config("key|value|down"))
    randomize_updates(root)
    expected = attention(x)
    merge_lora(root)
    assert_close(attention(x), expected)


def test_heads_are_disabled_below_lora_too():
    model, ids = classifier(), tokens()
    add_lora(model, config("self_attention"))
    randomize_updates(model)
    with disable_heads(model, "encoder.stack.blocks.0.self_attention", [1]):
        expected = model(ids)
    merge_lora(model)
    with disable_heads(model, "encoder.stack.blocks.0.self_attention", [1]):
        assert_close(model(ids), expected)


def test_a_batch_can_be_learned():
    model = SequenceClassifier(Bert(BERT), N_CLASSES)
    add_lora(model, config(train=("classifier",)))
    ids, classes = torch.randint(37, (7, 13)), torch.randint(N_CLASSES, (7,))
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(ids), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    now = dict(model.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in frozen.items())


def state(model):
    return {n: (p.requires_grad, p.clone()) for n, p in model.named_parameters()}


def unchanged(model, before):
    after = state(model)
    return before.keys() == after.keys() and all(
        after[n][0] == grad and torch.equal(after[n][1], p) for n, (grad, p) in before.items()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pattern": "querry"},
            r"matches 'querry'.*has: encoder\.stack\.blocks\.\*\.self_att",
        ),
        ({"pattern": "norm"}, "no frozen linear layer has a name that matches 'norm'"),
        ({"pattern": "classifier", "train": ("classifier",)}, "no frozen linear layer"),
        ({"train": ("head",)}, r"train = 'head' is not a part.*such as encoder, classifier"),
        ({"train": ("classif",)}, "train = 'classif' is not a part of"),
    ],
)
def test_a_name_that_is_not_there(options, message):
    model = classifier()
    before = state(model)
    with pytest.raises(ConfigError, match=message):
        add_lora(model, config(**options))
    assert unchanged(model, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank = 0 of LoRA; expected at least 1"),
        ({"alpha": 0.0}, r"alpha = 0\.0 of LoRA; expected a number above 0"),
        ({"alpha": math.inf}, "alpha = inf of LoRA"),
        ({"alpha": math.nan}, "alpha = nan of LoRA"),
        ({"dropout": 1.0}, r"dropout = 1\.0 of LoRA; expected 0 <= dropout < 1"),
        ({"dropout": -0.1}, r"dropout = -0\.1 of LoRA"),
        ({"pattern": "*.query"}, r"'\*\.query' is not a regular expression \(nothing to repeat"),
    ],
)
def test_a_config_that_makes_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        config(**options)


def test_a_layer_gets_lora_once():
    model = classifier()
    add_lora(model, config("query"))
    before = state(model)
    with pytest.raises(ConfigError, match=r"0\.self_attention\.query already has LoRA"):
        add_lora(model, config("query|value"))
    with pytest.raises(ConfigError, match=r"encoder\.norm is not a linear layer"):
        attach_lora(model, {"encoder.norm": config()})
    with pytest.raises(ConfigError, match=r"query\.base is not a linear layer"):
        attach_lora(model, {"encoder.stack.blocks.0.self_attention.query.base": config()})
    assert unchanged(model, before)


def test_a_tied_output_layer_is_refused():
    model = GPT(GPTConfig(**SIZES, n_layers=2))
    before = state(model)
    with pytest.raises(ConfigError, match=r"head shares its parameters with embedding\.weight"):
        add_lora(model, config("."))
    with pytest.raises(ConfigError, match=r"head\.weight is in train, but shares its parameter"):
        add_lora(model, config(train=("head",)))
    assert unchanged(model, before)
    add_lora(model, config(train=("head", "embedding")))
    assert model.head.weight.requires_grad


def test_a_layer_that_is_used_twice_is_refused():
    block = nn.Sequential(nn.Linear(7, 7), nn.ReLU())
    model = nn.ModuleDict({"first": block, "second": block})
    for one, other in (("first", "second"), ("second", "first")):
        with pytest.raises(ConfigError, match=rf"{one}\.0 shares its parameters with {other}\.0"):
            add_lora(model, config(one))
    alike = nn.ModuleList([nn.Linear(7, 7), nn.Linear(7, 7)])
    alike[1].bias = alike[0].bias
    with pytest.raises(ConfigError, match=r"1 shares its parameters with 0\.bias"):
        add_lora(alike, config("1"))


def test_no_matrix_drops():
    layer = LoRALinear(nn.Linear(11, 13), config(dropout=0.5))
    with pytest.raises(ConfigError, match=r"update has dropout = 0\.5: only calling"):
        _ = layer.weight
    assert layer.eval().weight.shape == (13, 11)


def test_it_says_what_it_is():
    assert repr(LoRALinear(nn.Linear(11, 13), config())).startswith(
        "LoRALinear(\n  rank=3, alpha=7, dropout=0\n"
    )


@pytest.mark.parametrize("bias", [True, False])
def test_dora_has_rows_of_the_length_that_it_learned(bias):
    layer = LoRALinear(nn.Linear(11, 13, bias=bias).double(), config(dora=True))
    assert_close(layer.magnitude, layer.base.weight.norm(dim=1))
    nn.init.normal_(layer.B)
    nn.init.uniform_(layer.magnitude, 1, 3)
    assert_close(layer.weight.norm(dim=1), layer.magnitude)
    direction = layer.base.weight + layer.scale * layer.B @ layer.A
    assert_close(
        layer.weight, layer.magnitude[:, None] * direction / direction.norm(dim=1)[:, None]
    )
    x = torch.randn(5, 11).double()
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    assert_close(layer(x), expected)
    assert_close(layer.merge()(x), expected)
    assert "dora" in repr(layer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()  # of 16 bits the kernels with and without gradients differ by rounding
def test_dora_before_training_changes_nothing(dtype, training):
    model, ids = classifier(dtype).train(training), tokens()
    before = model(ids)
    add_lora(model, config("encoder.stack", dora=True))
    assert torch.equal(model(ids), before)
    merge_lora(model)
    assert torch.equal(model(ids), before)


def test_no_gradient_goes_through_the_length_of_dora():
    layer = LoRALinear(nn.Linear(11, 13).double(), config(dora=True))
    nn.init.normal_(layer.B)
    x, upstream = torch.randn(5, 11).double(), torch.randn(5, 13).double()
    (layer(x) * upstream).sum().backward()
    length = (layer.base.weight + layer.scale * layer.B @ layer.A).detach().norm(dim=1)
    B = layer.B.detach().requires_grad_()
    constant = (layer.magnitude / length)[:, None] * (layer.base.weight + layer.scale * B @ layer.A)
    (nn.functional.linear(x, constant, layer.bias) * upstream).sum().backward()
    assert_close(layer.B.grad, B.grad)


def test_dropout_of_dora_is_of_all_that_it_stretches():
    """As in PEFT: the weight as it was reads all, and what is stretched the same as A does."""
    layer = LoRALinear(nn.Linear(11, 13).double(), config(dora=True, dropout=0.5)).train()
    nn.init.normal_(layer.B)
    nn.init.uniform_(layer.magnitude, 1, 3)
    x = torch.randn(5, 11).double()
    torch.manual_seed(0)
    found = layer(x)
    torch.manual_seed(0)
    dropped = drop(x, 0.5)
    assert 0 < (dropped == 0).sum() < x.numel()
    assert_close(found, layer.base(x) + dropped @ (layer.adapted() - layer.base.weight).T)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_an_embedding_with_an_update(dora, scale):
    base = TokenEmbedding(17, 11, scale=scale).double()
    before, ids = base.weight.detach().clone(), torch.randint(17, (3, 5))
    layer = LoRAEmbedding(base, config(dora=dora))
    assert torch.equal(layer(ids), base(ids))
    nn.init.normal_(layer.A)
    table = before + layer.scale * (layer.B @ layer.A).T
    if dora:
        nn.init.uniform_(layer.magnitude, 1, 3)
        table = table * layer.magnitude / table.norm(dim=0)
    assert_close(layer.weight, table)
    assert_close(layer(ids), table[ids] * scale)
    assert torch.equal(base.weight, before)
    assert not base.weight.requires_grad
    merged = layer.merge()
    assert_close(merged(ids), table[ids] * scale)


def test_a_tied_layer_is_adapted_by_name_and_never_merged():
    model = gpt(tied_output=True).model
    ids, before = tokens() % 19, {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ConfigError, match=r"head shares its parameters with embedding\.weight"):
        attach_lora(model, {"head": config()})
    attach_lora(model, {"head": config(), "embedding": config()}, tied=True)
    assert set(lora_layers(model)) == {"head", "embedding"}
    nn.init.normal_(model.head.B)
    expected = model(ids)
    with pytest.raises(ConfigError, match=r"update of embedding cannot be merged: .*head\.base"):
        merge_lora(model)
    assert torch.equal(model(ids), expected)
    assert torch.equal(model.embedding.base.weight, before["embedding.weight"])
