"""What trains, at which rate: laws over every family and its heads."""

import math
from types import SimpleNamespace

import pytest
import torch
from tests.checkpoints.tiny import TINY
from tests.training.toy import settings
from torch import nn

from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError
from qkv.models.heads import ModelWithHead
from qkv.models.pointer_generator import PointerGenerator
from qkv.models.rnn import RNNSeq2Seq
from qkv.models.t5 import T5Encoder
from qkv.training.checkpointing import Checkpoints
from qkv.training.finetune import (
    GradualUnfreezing,
    everything,
    head_only,
    layer_groups,
    layerwise_adamw,
    top_layers,
    train_only,
)
from qkv.training.loop import train
from qkv.training.optim import adamw
from qkv.training.run import Callback

N_CLASSES = 5
ALL = [
    pytest.param(family, architecture, id=f"{family.model_type}-{architecture.name}")
    for family in FAMILIES.values()
    for architecture in family.architectures
]
each = pytest.mark.parametrize(("family", "architecture"), ALL)
CLASSIFIERS = [
    ("bert", "BertForSequenceClassification"),
    ("bert", "BertForMaskedLM"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("vit", "ViTForImageClassification"),
    ("deit", "DeiTForImageClassificationWithTeacher"),
    ("gpt2", "GPT2ForSequenceClassification"),
    ("llama", "LlamaForSequenceClassification"),
]


def built(family, architecture, device="cpu"):
    config = family.read_config(TINY[family.model_type], architecture)
    with torch.device(device):
        return architecture.build(config, N_CLASSES)


def tiny(model_type, name=None, **changes):
    family = FAMILIES[model_type]
    architecture = family.architecture(name)
    config = family.read_config({**TINY[model_type], **changes}, architecture)
    torch.manual_seed(0)
    return architecture.build(config, N_CLASSES)


def names_of(model, group):
    names = {p: name for name, p in reversed(list(model.named_parameters(remove_duplicate=False)))}
    return {names[p] for p in group.parameters}


def inputs(model):
    size = getattr(model.config, "image_size", None)
    if size is None:
        return torch.arange(10).view(2, 5) % model.config.vocab_size
    height, width = (size, size) if isinstance(size, int) else size
    return torch.linspace(-1, 1, 2 * model.config.n_channels * height * width).view(
        2, model.config.n_channels, height, width
    )


def loss_of(model):
    return model(inputs(model)).square().sum()


def steps(model, optimizer, n=3):
    model.train()
    for _ in range(n):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(model, before):
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


# Groups


@each
def test_every_parameter_is_in_exactly_one_group(family, architecture):
    model = built(family, architecture, "meta")
    grouped = [id(p) for group in layer_groups(model) for p in group.parameters]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


@each
def test_the_groups_are_named_from_bottom_to_top(family, architecture):
    model = built(family, architecture, "meta")
    names = [group.name for group in layer_groups(model)]
    config = model.config
    if isinstance(model, RNNSeq2Seq):
        layers = ["encoder", "decoder"]
    elif isinstance(model, PointerGenerator):
        layers = [f"encoder.stack layer {i}" for i in range(config.n_encoder_layers)]
        layers += [f"decoder layer {i}" for i in range(config.n_layers)]
    elif isinstance(model, T5Encoder):
        layers = [f"layer {i}" for i in range(config.n_encoder_layers)]
    elif hasattr(config, "n_decoder_layers"):
        layers = [f"encoder layer {i}" for i in range(config.n_encoder_layers)]
        layers += [f"decoder layer {i}" for i in range(config.n_decoder_layers)]
    else:
        layers = [f"layer {i}" for i in range(config.n_layers)]
    assert names[: len(layers) + 1] == ["embedding", *layers]
    rest = names[len(layers) + 1 :]
    assert rest == ["head"] or (rest == [] and not isinstance(model, ModelWithHead))


@pytest.mark.parametrize(
    ("family", "architecture"), [one for one in ALL if one.values[1].model is not RNNSeq2Seq]
)
def test_a_layer_holds_its_block_and_nothing_of_another(family, architecture):
    model = built(family, architecture, "meta")
    for group in layer_groups(model):
        *stack, number = group.name.split()
        names = names_of(model, group)
        if number.isdigit():
            stack = f"{stack[0]}." if stack[:-1] else "stack."
            closing = f"{stack}norm."
            own = {n for n in names if f"{stack}blocks.{number}." in n}
            assert own
            assert all(closing in name for name in names - own)
        else:
            assert not any(".blocks." in name for name in names)


def test_a_closing_norm_belongs_to_the_last_layer():
    for model, last in ((tiny("gpt2"), "layer 2"), (tiny("t5"), "decoder layer 1")):
        stack = "decoder" if last.startswith("decoder") else "stack"
        holders = [
            group.name
            for group in layer_groups(model)
            if any(name.endswith(f"{stack}.norm.weight") for name in names_of(model, group))
        ]
        assert holders == [last]


def test_the_head_of_a_bert_with_classes_is_its_pooler_and_the_classifier():
    model = tiny("bert", "BertForSequenceClassification")
    *_, head = layer_groups(model)
    assert names_of(model, head) == {
        "encoder.pooler.weight",
        "encoder.pooler.bias",
        "classifier.output.weight",
        "classifier.output.bias",
    }


def test_the_embedding_is_all_that_stands_below_the_layers():
    expected = {
        "bert": {"embedding.weight", "positions.table.weight", "segments.weight"}
        | {"norm.weight", "norm.bias"},
        "gpt2": {"embedding.weight", "positions.table.weight"},
        "llama": {"embedding.weight"},
        "vit": {"patches.weight", "patches.bias", "class_token", "positions"},
        "bart": {"embedding.weight"}
        | {f"{side}_positions.table.weight" for side in ("source", "target")}
        | {f"{side}_norm.{name}" for side in ("source", "target") for name in ("weight", "bias")},
        "qkv_rnn": {"source_embedding.weight", "target_embedding.weight"},
    }
    for family, names in expected.items():
        model = tiny(family)
        body = model.encoder if isinstance(model, ModelWithHead) else model
        found = names_of(body, layer_groups(body)[0])
        assert found == names, family


def test_a_tied_parameter_belongs_to_the_lowest_group():
    for model in (tiny("bert", "BertForMaskedLM"), tiny("qwen2"), tiny("gpt2")):
        body = getattr(model, "encoder", model)
        groups = {group.name: group.parameters for group in layer_groups(model)}
        assert any(p is body.embedding.weight for p in groups["embedding"])
        assert not any(p is body.embedding.weight for p in groups.get("head", ()))
    assert "head" not in groups
    model = tiny("t5")
    shared = model.decoder.blocks[0].self_attention.position_bias.table.weight
    holders = [g.name for g in layer_groups(model) if any(p is shared for p in g.parameters)]
    assert holders == ["decoder layer 0"]


def test_a_model_without_layers_is_refused():
    message = "Sequential has no layers that can be told apart; expected a model with a Stack"
    with pytest.raises(ConfigError, match=message):
        layer_groups(nn.Sequential(nn.Linear(2, 3)))


# What trains


@pytest.mark.parametrize(("model_type", "name"), CLASSIFIERS)
@pytest.mark.parametrize("made", ["before", "after"])
def test_head_only_moves_the_head_alone(model_type, name, made):
    """To the bit, with decay, whether the optimizer was made before the rest was frozen or not."""
    model = tiny(model_type, name)
    *_, head = layer_groups(model)
    options = {"learning_rate": 0.1, "weight_decay": 0.5}
    optimizer = adamw(model, **options)
    head_only(model)
    if made == "after":
        optimizer = adamw(model, **options)
    before = values(model)
    steps(model, optimizer)
    assert changed(model, before) == names_of(model, head) & before.keys()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_top_layers_moves_the_head_and_n_layers(n):
    model = tiny("vit", "ViTForImageClassification")
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5)
    top_layers(model, n)
    before = values(model)
    steps(model, optimizer)
    groups = {group.name: names_of(model, group) for group in layer_groups(model)}
    assert changed(model, before) == groups["head"].union(
        *(groups[f"layer {i}"] for i in range(3 - n, 3))
    )


def test_the_top_of_an_encoder_decoder_is_its_decoder():
    model = tiny("bart")
    top_layers(model, 3)
    trained = {g.name for g in layer_groups(model) if all(p.requires_grad for p in g.parameters)}
    assert trained == {"encoder layer 2", "decoder layer 0", "decoder layer 1"}


@pytest.mark.parametrize("n", [4, -1])
def test_more_layers_than_there_are(n):
    model = tiny("bert", "BertForSequenceClassification")
    message = f"n_layers = {n}, but this SequenceClassifier has 3"
    with pytest.raises(ConfigError, match=message):
        top_layers(model, n)
    assert all(p.requires_grad for p in model.parameters())


def test_a_tied_output_layer_is_no_head():
    with pytest.raises(ConfigError, match="this GPT has no parameter in its head alone"):
        head_only(tiny("gpt2"))


def test_everything_trains_again():
    model = tiny("bert", "BertForSequenceClassification")
    head_only(model)
    everything(model)
    assert all(p.requires_grad for p in model.parameters())
    train_only(model, [])
    assert not any(p.requires_grad for p in model.parameters())


# Rates


def rates_of(optimizer):
    return {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def test_each_group_has_a_lower_rate_than_the_one_above():
    model = tiny("bert", "BertForSequenceClassification")
    optimizer = layerwise_adamw(model, learning_rate=1e-3, layer_decay=1 / 2.6)
    rates = rates_of(optimizer)
    expected = {
        "head": 1e-3,
        "layer 2": 1e-3 / 2.6,
        "layer 1": 1e-3 / 2.6 / 2.6,
        "layer 0": 1e-3 / 17.576,
        "embedding": 1e-3 / 45.6976,
    }
    for group in layer_groups(model):
        for p in group.parameters:
            assert math.isclose(rates.pop(p), expected[group.name], rel_tol=1e-12)
    assert not rates
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert [group["name"] for group in optimizer.param_groups][::2] == list(expected)


@each
def test_layerwise_rates_leave_the_decay_as_it_is(family, architecture):
    model = built(family, architecture, "meta")
    plain = adamw(model, weight_decay=0.3)
    layerwise = layerwise_adamw(model, learning_rate=0.1, layer_decay=0.5, weight_decay=0.3)
    decays = [
        {id(p): group["weight_decay"] for group in one.param_groups for p in group["params"]}
        for one in (plain, layerwise)
    ]
    assert decays[0] == decays[1]
    assert sum(len(group["params"]) for group in layerwise.param_groups) == len(decays[0])


def test_a_decay_of_one_is_adamw():
    options = {"learning_rate": 0.01, "betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.2}
    models = [tiny("bert", "BertForSequenceClassification").eval() for _ in range(2)]
    torch.manual_seed(7)
    steps(models[0], adamw(models[0], **options))
    torch.manual_seed(7)
    steps(models[1], layerwise_adamw(models[1], layer_decay=1.0, **options))
    assert not changed(models[0], values(models[1]))


def test_frozen_groups_are_left_out_but_count():
    model = tiny("bert", "BertForSequenceClassification")
    groups = {group.name: group for group in layer_groups(model)}
    train_only(model, [groups["layer 0"], groups["layer 2"]])
    rates = rates_of(layerwise_adamw(model, learning_rate=8.0, layer_decay=0.5))
    assert {rates.pop(p) for p in groups["layer 2"].parameters} == {4.0}
    assert {rates.pop(p) for p in groups["layer 0"].parameters} == {1.0}
    assert not rates


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 2.6, math.nan])
def test_a_layer_decay_that_is_none(layer_decay):
    message = rf"layer_decay = {layer_decay}; expected above 0 and at most 1.* \(1 / 2.6, not 2.6"
    with pytest.raises(ConfigError, match=message):
        layerwise_adamw(tiny("gpt2"), learning_rate=0.1, layer_decay=layer_decay)


# Gradual unfreezing


BATCH = SimpleNamespace(n_targets=2, to=lambda device: BATCH)


class Recorder(Callback):
    """Which groups train in each step, which have a state, and which have moved."""

    def __init__(self, model):
        self.groups = layer_groups(model)
        self.before = [[p.detach().clone() for p in g.parameters] for g in self.groups]
        self.trained, self.moved, self.states = [], [], []

    def before_step(self, run):
        self.trained.append(self._which(lambda p, was: p.requires_grad))

    def after_step(self, run):
        self.moved.append(self._which(lambda p, was: not torch.equal(p, was)))
        self.states.append(self._which(lambda p, was: p in run.optimizer.state))
        assert all(p.grad is None for g in self.groups for p in g.parameters if not p.requires_grad)

    def _which(self, holds):
        found = []
        for group, before in zip(self.groups, self.before, strict=True):
            answers = [holds(p, was) for p, was in zip(group.parameters, before, strict=True)]
            assert any(answers) == all(answers)  # a group is of one kind
            found += [group.name] * all(answers)
        return found


def go(model, callbacks, n, optimizer=None, loss=lambda model, batch: loss_of(model)):
    def batches():
        while True:
            yield BATCH

    optimizer = optimizer or adamw(model, learning_rate=0.1, weight_decay=0.5)
    return train(
        model,
        batches(),
        loss,
        settings(steps=n),
        optimizer=optimizer,
        callbacks=callbacks,
        device="cpu",
    )


GROUPS = ["embedding", "layer 0", "layer 1", "layer 2", "head"]


def test_one_more_group_trains_every_so_many_steps():
    """Those that wait have no gradient, no state, and do not move, decay or not."""
    model = tiny("vit", "ViTForImageClassification")
    recorder = Recorder(model)
    go(model, [GradualUnfreezing(3), recorder], 14)
    expected = [GROUPS[-1 - min(step // 3, 4) :] for step in range(14)]
    assert recorder.trained == expected
    assert recorder.moved == expected
    assert recorder.states == expected
    assert all(p.requires_grad for p in model.parameters())


def test_one_step_each():
    model = tiny("vit", "ViTForImageClassification")
    recorder = Recorder(model)
    go(model, [GradualUnfreezing(1), recorder], 6)
    assert recorder.trained == [GROUPS[-1 - min(step, 4) :] for step in range(6)]


def test_gradual_unfreezing_goes_on_to_the_bit_after_a_stop(tmp_path):
    def run(folder, dies_at=None):
        model = tiny("vit", "ViTForImageClassification", hidden_dropout_prob=0.3)
        torch.manual_seed(1)
        left = [dies_at]

        def loss(model, batch):
            if left[0] is not None:
                left[0] -= 1
                if left[0] < 0:
                    raise ValueError("killed")
            return loss_of(model)

        optimizer = layerwise_adamw(model, learning_rate=0.1, layer_decay=0.7)
        recorder = Recorder(model)
        callbacks = [GradualUnfreezing(2), recorder, Checkpoints(folder, every=1)]
        try:
            go(model, callbacks, 9, optimizer, loss)
        finally:
            assert all(p.requires_grad for p in model.parameters())
        return model, recorder

    whole, _ = run(tmp_path / "whole")
    with pytest.raises(ValueError, match="killed"):
        run(tmp_path / "parts", dies_at=5)
    parts, recorder = run(tmp_path / "parts")
    assert recorder.trained == [GROUPS[-1 - min(step // 2, 4) :] for step in range(5, 9)]
    assert not changed(parts, values(whole))


def test_what_was_frozen_before_stays_frozen():
    model = tiny("vit", "ViTForImageClassification")
    top_layers(model, 2)
    before = values(model)
    recorder = Recorder(model)
    go(model, [GradualUnfreezing(1), recorder], 5)
    assert recorder.trained == [GROUPS[4:], GROUPS[3:], GROUPS[2:], GROUPS[2:], GROUPS[2:]]
    assert not any(".blocks.0." in name for name in changed(model, before))


def test_an_optimizer_that_lacks_what_is_to_be_unfrozen():
    model = tiny("vit", "ViTForImageClassification")
    head_only(model)
    optimizer = adamw(model)
    everything(model)
    n = len(list(model.parameters()))
    message = f"the optimizer lacks {n - 2} of the {n} parameters that are to be unfrozen"
    with pytest.raises(ConfigError, match=message):
        go(model, [GradualUnfreezing(1)], 2, optimizer)


def test_no_steps_between_groups():
    with pytest.raises(ConfigError, match="every = 0 steps; expected at least 1"):
        GradualUnfreezing(0)
