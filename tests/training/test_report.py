"""The report before a run: what is exact, against real tensors; the rest, against what is kept."""

import pytest
import torch
from torch import nn

from qkv.blocks.stack import Stack
from qkv.data.classification import ClassificationBatch
from qkv.errors import ConfigError
from qkv.models.bart import Bart, BartConfig
from qkv.models.bert import Bert, BertConfig
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import SequenceClassifier, TokenClassifier
from qkv.models.llama import Llama, LlamaConfig
from qkv.models.lora import LoRAConfig, add_lora
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.t5 import T5, T5Config
from qkv.models.vit import ViT, ViTConfig
from qkv.training.classification import classification_loss
from qkv.training.finetune import (
    everything,
    head_only,
    layer_groups,
    layerwise_adamw,
    top_layers,
    train_only,
)
from qkv.training.loop import train
from qkv.training.optim import adamw
from qkv.training.report import activation_memory, describe_training, training_memory
from qkv.training.run import Callback
from qkv.training.settings import Training
from qkv.training.stopping import KeepBest

B, L, D, F, H, VOCAB = 5, 31, 66, 257, 3, 17
SIZES = {"d_model": D, "n_heads": H, "d_ff": F}
TOKENS = torch.arange(B * L).view(B, L) % VOCAB


def bert(n_layers=3, **options):
    config = BertConfig(vocab_size=VOCAB, n_positions=37, n_layers=n_layers, **SIZES, **options)
    return SequenceClassifier(Bert(config), 5)


def gpt(**options):
    return GPT(GPTConfig(vocab_size=VOCAB, n_positions=37, n_layers=3, **SIZES, **options))


def llama(**options):
    return Llama(LlamaConfig(vocab_size=VOCAB, n_layers=3, n_kv_heads=1, **SIZES, **options))


def vit(**options):
    config = ViTConfig(image_size=(15, 18), patch_size=3, n_channels=2, n_layers=3, **SIZES)
    return SequenceClassifier(ViT(config, **options), 5, pool="first")


def bart(**options):
    layers = {"n_encoder_layers": 2, "n_decoder_layers": 3}
    return Bart(BartConfig(vocab_size=VOCAB, n_positions=37, **layers, **SIZES, **options))


def t5(**options):
    layers = {"n_encoder_layers": 2, "n_decoder_layers": 3, "d_head": 22}
    return T5(T5Config(vocab_size=VOCAB, **layers, **SIZES, **options))


def run(model):
    """The hidden states: what a loss does above them is not the blocks'."""
    torch.manual_seed(1)
    model.train()
    if isinstance(model, Bart | T5):
        return model.hidden(TOKENS, TOKENS)
    if isinstance(getattr(model, "encoder", None), ViT):
        return model(torch.randn(B, 2, 15, 18))
    return getattr(model, "hidden", model)(TOKENS)


def kept_bytes(model):
    """What autograd keeps in a pass forward, each storage once, the weights not counted."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, or the next one could have its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run(model)
    return sum(storage.nbytes() for storage in kept.values())


# What is exact


def by_layers(model):
    return layerwise_adamw(model, learning_rate=0.1, layer_decay=0.5)


def with_lora(model):
    add_lora(model, LoRAConfig(train=("classifier",)))


@pytest.mark.parametrize("make", [adamw, by_layers, lambda m: torch.optim.Adam(m.parameters())])
@pytest.mark.parametrize("what", [head_only, lambda m: top_layers(m, 2), everything, with_lora])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_but_the_activations_is_exact(what, make, dtype):
    model = bert().to(dtype)
    model.register_buffer("extra", torch.zeros(7))
    what(model)
    optimizer = make(model)
    memory = training_memory(model, optimizer, rows=B, length=L, best=True, average=True)
    model(TOKENS).square().sum().backward()
    optimizer.step()
    parameters, buffers = list(model.parameters()), list(model.buffers())
    state = [tensor for one in optimizer.state.values() for tensor in one.values()]
    assert memory.weights == sum(t.nbytes for t in [*parameters, *buffers])
    trained, extra = sum(p.nbytes for p in parameters if p.requires_grad), model.extra.nbytes
    assert memory.copies == memory.weights + (trained + extra) + trained
    assert memory.gradients == sum(p.grad.nbytes for p in parameters if p.grad is not None)
    assert memory.optimizer == sum(tensor.nbytes for tensor in state)
    parts = (memory.weights, memory.copies, memory.gradients, memory.optimizer, memory.activations)
    assert memory.total == sum(parts)


def test_what_the_optimizer_does_not_hold_has_a_gradient_but_no_state():
    model = bert()
    head_only(model)
    optimizer = adamw(model)
    everything(model)
    memory = training_memory(model, optimizer, rows=B, length=L)
    assert memory.gradients == memory.weights
    head = layer_groups(model)[-1].parameters
    assert memory.optimizer == sum(2 * p.nbytes + 4 for p in head)


def test_the_memory_of_another_optimizer_is_not_known():
    model = bert()
    message = "the memory of SGD is unknown; expected AdamW or Adam"
    with pytest.raises(ConfigError, match=message):
        training_memory(model, torch.optim.SGD(model.parameters()), rows=B, length=L)


# The estimate

MODELS = {
    "bert": bert,
    "bert without dropout": lambda: bert(dropout=0.0, attention_dropout=0.0),
    "bert, attention's only": lambda: bert(dropout=0.0),
    "bert, relu": lambda: bert(activation="relu"),
    "gpt": gpt,
    "gpt without dropout": lambda: gpt(dropout=0.0, attention_dropout=0.0, embedding_dropout=0.0),
    "llama": llama,
    "llama, attention's dropout": lambda: llama(attention_dropout=0.1),
    "mistral": lambda: llama(window=7),
    "vit": vit,
    "bart": bart,
    "bart, dropping inside": lambda: bart(activation_dropout=0.1),
    "t5": t5,
    "t5 without dropout": lambda: t5(dropout=0.0),
    "t5, gated": lambda: t5(feed_forward="geglu_tanh"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_activations_are_within_a_tenth_of_what_autograd_keeps(name):
    model = MODELS[name]()
    estimate = activation_memory(model, rows=B, length=L)
    assert 0.9 <= estimate / kept_bytes(model) <= 1.01


def test_with_lora_the_inputs_of_frozen_matrices_are_not_kept():
    model = bert()
    everything_trains = activation_memory(model, rows=B, length=L)
    with_lora(model)
    estimate = activation_memory(model, rows=B, length=L)
    assert 0.9 <= estimate / kept_bytes(model) <= 1.01
    assert estimate < 0.8 * everything_trains


@pytest.mark.parametrize("make", [bert, bart])
def test_the_lowest_that_trains_decides_what_is_kept(make):
    model = make()
    groups = layer_groups(model)
    estimates = []
    for lowest, group in enumerate(groups):
        train_only(model, [])
        group.parameters[-1].requires_grad_(True)
        alone = activation_memory(model, rows=B, length=L)
        if group.name not in ("embedding", "head"):
            # A decoder's first self-attention counts although nothing below it trains.
            assert 0.9 <= alone / kept_bytes(model) <= (1.01 if make is bert else 1.15)
        train_only(model, groups[lowest:])
        estimates.append(activation_memory(model, rows=B, length=L))
        if group.name not in ("embedding", "head"):
            assert 0.9 <= estimates[-1] / kept_bytes(model) <= 1.01
        assert alone <= estimates[-1]
    assert estimates[0] == estimates[1]
    assert estimates[1:] == sorted(set(estimates[1:]), reverse=True)
    if make is bert:
        assert estimates[-1] == 0
        assert estimates[2] == estimates[1] * 2 // 3


def test_the_formula_by_hand():
    """Inputs and outputs of every sublayer (Korthikanti et al. 2022, section 4.1)."""
    model = bert(n_layers=1, dropout=0.0, attention_dropout=0.0)
    by_hand = 4 * B * L * (8 * D + 2 * F)
    assert 1 <= activation_memory(model, rows=B, length=L) / by_hand < 1.01
    model = bert(n_layers=1)
    by_hand = 4 * B * L * (10 * D + 2 * F + 3 * H * L)  # a CPU stores weights that are dropped
    assert 1 <= activation_memory(model, rows=B, length=L) / by_hand < 1.01
    assert 1 <= activation_memory(model.double(), rows=B, length=L) / (2 * by_hand) < 1.01


def test_measuring_leaves_the_model_and_the_random_numbers_as_they_were():
    model = bert().eval()
    state = torch.get_rng_state()
    activation_memory(model, rows=B, length=L)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


# The tables


def test_the_tables():
    model = bert(n_layers=2, pooler=True)
    top_layers(model, 1)
    optimizer = layerwise_adamw(model, learning_rate=1e-3, layer_decay=0.5)
    tables = describe_training(model, optimizer, rows=5, length=31)
    trained, memory = tables.values()
    head, layer = D * D + D + 5 * D + 5, 4 * (D * D + D) + 2 * D * F + D + F + 4 * D
    embedding = (VOCAB + 37 + 2 + 2) * D
    n = head + 2 * layer + embedding

    def row(group, parameters, trained, rate):
        share = f"{trained / n:.2%}"
        return [group, f"{parameters:,}", f"{trained:,}", share, rate]

    assert list(trained[0]) == ["group", "parameters", "trained", "share of all", "learning rate"]
    assert [list(one.values()) for one in trained] == [
        row("head", head, head, "0.001"),
        row("layer 1", layer, layer, "0.0005"),
        row("layer 0", layer, 0, ""),
        row("embedding", embedding, 0, ""),
        row("all", n, head + layer, "0.0005 to 0.001"),
    ]
    n_state = 8 * (head + layer) + 4 * 20
    activations = activation_memory(model, rows=5, length=31)
    sizes = [4 * n, 4 * n, 4 * (head + layer), n_state, activations]
    assert list(tables) == ["what trains", "memory expected, 5 rows of 31 tokens"]
    assert [one["size"] for one in memory] == [
        f"{size / 1e6:,.2f} MB" for size in [*sizes, sum(sizes)]
    ]
    assert [one["what"] for one in memory] == [
        "weights",
        "copies of them",
        "gradients",
        "optimizer",
        "activations, about",
        "all",
    ]


def test_what_is_frozen_does_not_train_though_the_optimizer_holds_it():
    model = bert()
    early = adamw(model)
    top_layers(model, 1)
    tables = [describe_training(model, one, rows=B, length=L) for one in (early, adamw(model))]
    assert tables[0] == tables[1]


def test_a_model_without_blocks_says_what_is_not_estimated():
    model = RNNSeq2Seq(RNNConfig(source_vocab_size=17, target_vocab_size=19))
    assert activation_memory(model, rows=B, length=L) is None
    memory = describe_training(model, adamw(model), rows=B, length=L)[
        "memory expected, 5 rows of 31 tokens"
    ]
    assert {"what": "activations, about", "size": "not estimated"} in memory


def test_parameters_that_no_loss_reaches_count():
    config = BertConfig(vocab_size=VOCAB, n_positions=37, n_layers=1, **SIZES)
    model = TokenClassifier(Bert(config), 5)
    memory = training_memory(model, adamw(model), rows=B, length=L)
    model(TOKENS).sum().backward()
    unused = [p for p in model.parameters() if p.grad is None]
    assert {id(p) for p in unused} == {id(p) for p in model.encoder.pooler.parameters()}
    assert isinstance(model.encoder.pooler, nn.Linear)
    assert memory.gradients == memory.weights


def test_computed_again_a_block_keeps_its_input_and_one_block_the_rest():
    plain, model = bert(), bert()
    for stack in (m for m in model.modules() if isinstance(m, Stack)):
        stack.recompute = True
    per_block = activation_memory(plain, rows=B, length=L) // 3
    assert activation_memory(model, rows=B, length=L) == per_block + 3 * 4 * B * L * D
    # What autograd keeps until the blocks run again: their inputs, and small things.
    assert 3 * 4 * B * L * D <= kept_bytes(model) < per_block


def test_a_run_keeps_the_copies_that_the_table_counts():
    model = bert()
    model.register_buffer("extra", torch.zeros(7))
    head_only(model)
    batch = ClassificationBatch(
        tokens=TOKENS, token_mask=TOKENS >= 0, classes=torch.arange(B), rows=tuple(range(B))
    )
    averages = {}

    class Look(Callback):
        def after_step(self, run):
            averages.update(run.average.weights)

    best = KeepBest("score", mode="max")
    train(
        model,
        [batch],
        classification_loss,
        Training(steps=1, ema=0.9),
        evaluate=lambda _: {"score": 1.0},
        callbacks=[best, Look()],
        device="cpu",
    )
    kept = sum(t.nbytes for t in [*best.weights.values(), *averages.values()])
    memory = training_memory(model, adamw(model), rows=B, length=L, best=True, average=True)
    assert memory.copies == memory.weights + kept


def test_the_table_counts_the_copies_that_are_kept():
    model = bert()
    head_only(model)
    kept = {"best": True, "average": True}
    table = describe_training(model, adamw(model), rows=B, length=L, **kept)
    memory = training_memory(model, adamw(model), rows=B, length=L, **kept)
    sizes = {row["what"]: row["size"] for row in table[f"memory expected, {B} rows of {L} tokens"]}
    assert memory.copies > memory.weights
    assert sizes["copies of them"] == f"{memory.copies / 1e6:,.2f} MB" != sizes["weights"]
