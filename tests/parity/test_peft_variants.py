"""What PEFT's LoRA has beside A and B, through files, both ways, in float64.

DoRA, biases, embeddings and output layers, chosen layers, and other ways to start.
"""

import json
from dataclasses import replace

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.parity.causal import VOCAB
from tests.parity.reference import in_float64
from tests.parity.test_heads import BART, END
from tests.parity.test_peft import BERT, GPT, LLAMA, T5
from tests.parity.weights import measure, randomize
from torch import nn

from qkv.checkpoints.adapters import load_adapter, save_adapter
from qkv.checkpoints.checkpoint import load_checkpoint
from qkv.errors import ConfigError, DataError
from qkv.models.lora import LoRAConfig, add_lora, attach_lora, lora_layers, merge_lora

T = transformers
EXACT = 1e-12
RANK, ALPHA, B, L = 3, 7.0, 3, 13
MODELS = {
    "bert": lambda: T.BertForSequenceClassification(T.BertConfig(**BERT)),
    "masked": lambda: T.BertForMaskedLM(T.BertConfig(**BERT)),
    "gpt2": lambda: T.GPT2LMHeadModel(T.GPT2Config(**GPT)),
    "untied": lambda: T.GPT2LMHeadModel(T.GPT2Config(**GPT, tie_word_embeddings=False)),
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**LLAMA)),
    "bart": lambda: T.BartForSequenceClassification(T.BartConfig(**BART)),
    "t5": lambda: T.T5ForConditionalGeneration(T.T5Config(**T5)),
}
SEQ_CLS = {"task_type": "SEQ_CLS"}
CASES = {
    "dora": ("bert", {"use_dora": True, "target_modules": ["query", "dense"], **SEQ_CLS}),
    "dora, rank-stabilized": (
        "bert",
        {"use_dora": True, "use_rslora": True, "target_modules": ["query"], **SEQ_CLS},
    ),
    "dora of one projection for three": (
        "gpt2",
        {"use_dora": True, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
    ),
    "dora of llama": ("llama", {"use_dora": True, "target_modules": "all-linear"}),
    "all biases": ("bert", {"bias": "all", "target_modules": ["query", "dense"], **SEQ_CLS}),
    "all biases and a head of two layers": (
        "bart",
        {
            "bias": "all",
            "target_modules": ["q_proj", "fc1"],
            "modules_to_save": ["classification_head"],
        },
    ),
    "all biases, masked": ("masked", {"bias": "all", "target_modules": ["query"]}),
    "all biases of gpt2": (
        "gpt2",
        {"bias": "all", "target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "biases of layers": ("bert", {"bias": "lora_only", "target_modules": ["key"], **SEQ_CLS}),
    "biases of one projection for three": (
        "gpt2",
        {"bias": "lora_only", "target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "biases and dora": (
        "bert",
        {"bias": "all", "use_dora": True, "target_modules": ["query"], **SEQ_CLS},
    ),
    "embedding": ("bert", {"target_modules": ["query", "word_embeddings"], **SEQ_CLS}),
    "all embeddings": (
        "bert",
        {
            "target_modules": ["word_embeddings", "position_embeddings", "token_type_embeddings"],
            "use_rslora": True,
            **SEQ_CLS,
        },
    ),
    "embedding, dora": ("bert", {"use_dora": True, "target_modules": ["word_embeddings"]}),
    "embedding and output": (
        "untied",
        {"target_modules": ["wte", "wpe", "lm_head", "c_attn"], "fan_in_fan_out": True},
    ),
    "embedding and output, dora": (
        "untied",
        {"use_dora": True, "target_modules": ["wte", "lm_head"], "fan_in_fan_out": True},
    ),
    "embedding and output of llama": (
        "llama",
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    ),
    "tied embedding": ("gpt2", {"target_modules": ["wte", "c_fc"], "fan_in_fan_out": True}),
    "tied output": ("gpt2", {"target_modules": ["lm_head", "c_fc"], "fan_in_fan_out": True}),
    "tied embedding and output, dora": (
        "gpt2",
        {"use_dora": True, "target_modules": ["wte", "lm_head"], "fan_in_fan_out": True},
    ),
    "tied output of a masked model": ("masked", {"target_modules": ["decoder", "query"]}),
    "tied output of t5": ("t5", {"target_modules": ["lm_head", "q"]}),
    "one layer": ("bert", {"layers_to_transform": 1, "target_modules": ["query", "value"]}),
    "layers by a pattern": (
        "llama",
        {"layers_to_transform": [1], "layers_pattern": "layers", "target_modules": ["q_proj"]},
    ),
    "layers by patterns": (
        "gpt2",
        {
            "layers_to_transform": [0],
            "layers_pattern": ["layers", "h"],
            "target_modules": ["c_attn", "c_proj"],
            "fan_in_fan_out": True,
        },
    ),
    "gaussian": ("bert", {"init_lora_weights": "gaussian", "target_modules": ["query"]}),
    "orthogonal": (
        "bert",
        {"init_lora_weights": "orthogonal", "target_modules": ["query"], "r": 4},
    ),
    "eva": (
        "bert",
        {
            "init_lora_weights": "eva",
            "eva_config": peft.EvaConfig(rho=2.0, whiten=True),
            "target_modules": ["query", "value"],
            # What EVA leaves: ranks that it gave to layers.
            "rank_pattern": {"bert.encoder.layer.0.attention.self.query": 5},
            "alpha_pattern": {"bert.encoder.layer.0.attention.self.query": 11.7},
        },
    ),
    "mica": ("bert", {"init_lora_weights": "mica", "target_modules": ["query", "value"]}),
    "modules, patterns, rank-stabilized": (
        "bert",
        {
            "use_rslora": True,
            "modules_to_save": ["classifier", "pooler"],
            "rank_pattern": {"query": 5},
            "alpha_pattern": {"1.attention.self.key": 2},
            "target_modules": ["query", "key"],
        },
    ),
}
each = pytest.mark.parametrize("case", CASES)
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning"),
    pytest.mark.filterwarnings("ignore:lora with eva initialization:UserWarning"),
]


def adapter_of_peft(model, options, folder):
    """Their base model in one folder, and PEFT's adapter with random values in another."""
    theirs = MODELS[model]()
    for parameter in theirs.parameters():
        randomize(parameter)
    theirs.double().save_pretrained(folder / "base")
    theirs.float()  # exactly: some ways to start are of float32 only
    config = peft.LoraConfig(**{"r": RANK, "lora_alpha": ALPHA, **options})
    reference = peft.get_peft_model(theirs, config).double().eval()
    for name, parameter in reference.named_parameters():
        trained = parameter.requires_grad or "lora_" in name
        if trained and "magnitude" in name:
            parameter.data.copy_(1 + torch.rand_like(parameter))
        elif trained and "original_module" not in name:
            randomize(parameter)
    reference.save_pretrained(folder / "theirs")
    return reference


def compare(model, ours, theirs):
    ids = torch.randint(4, VOCAB, (B, L))
    ids[:, -1] = END
    given = {"input_ids": ids}
    if model == "t5":
        given["decoder_input_ids"] = torch.randint(2, VOCAB, (B, 7))
    with torch.no_grad():
        found, expected = ours(*given.values()), in_float64(theirs)(**given)[0]
    assert measure(found, expected) <= EXACT


def peft_reads(model, folder):
    """PEFT's own model of our adapter, and without a missing or unknown tensor."""
    theirs = type(MODELS[model]()).from_pretrained(folder / "base").double()
    return peft.PeftModel.from_pretrained(theirs, folder / "ours").double().eval()


def load(folder):
    return load_checkpoint(folder / "base").model


@each
def test_theirs_is_read_and_ours_by_them(case, tmp_path):
    reference = adapter_of_peft(*CASES[case], tmp_path)
    model, without = load(tmp_path), load(tmp_path)
    load_adapter(model, tmp_path / "theirs")
    compare(CASES[case][0], model, reference)
    with pytest.raises(AssertionError):
        compare(CASES[case][0], without, reference)
    kind = json.loads((tmp_path / "base" / "config.json").read_text())["model_type"]
    save_adapter(model, tmp_path / "ours", model_type=kind)
    first, second = (
        load_file(tmp_path / f / "adapter_model.safetensors") for f in ("theirs", "ours")
    )
    assert all(torch.equal(first[name], second[name]) for name in second)
    # All but the base model's own weights, and the biases that PEFT writes two and three times.
    for name in first.keys() - second.keys():
        again = {"original_module", "modules_to_save"} & {*name.split(".")}
        tied = name.endswith("cls.predictions.decoder.bias")
        assert again or tied or name.endswith(("base_layer.weight", "base_layer.bias"))
    compare(CASES[case][0], model, peft_reads(CASES[case][0], tmp_path))
    again = load(tmp_path)
    load_adapter(again, tmp_path / "ours", model_type=kind)
    compare(CASES[case][0], again, reference)
    trained = [{n for n, p in x.named_parameters() if p.requires_grad} for x in (model, again)]
    assert trained[0] == trained[1]


@each
def test_merged_is_unmerged(case, tmp_path):
    reference = adapter_of_peft(*CASES[case], tmp_path)
    model = load(tmp_path)
    load_adapter(model, tmp_path / "theirs")
    ids = [torch.randint(2, VOCAB, (B, L)), torch.randint(2, VOCAB, (B, 7))]
    ids = ids[: 2 if CASES[case][0] == "t5" else 1]
    with torch.no_grad():
        expected = model(*ids)
        if case.startswith("tied"):
            before = {name: parameter.clone() for name, parameter in model.named_parameters()}
            with pytest.raises(ConfigError, match=r"cannot be merged: it shares its weight with"):
                merge_lora(model)
            after = dict(model.named_parameters())
            assert all(torch.equal(before[name], after[name]) for name in before)
            return
        merge_lora(model)
        assert not lora_layers(model)
        assert measure(model(*ids), expected) <= EXACT
    compare(CASES[case][0], model, reference.merge_and_unload())


@pytest.mark.parametrize(
    "case",
    # Of c_attn, each of ours has an A of its own, and a part of the gradient of theirs.
    [
        n
        for n, (m, o) in CASES.items()
        if m in ("bert", "masked", "gpt2") and "c_attn" not in str(o)
    ],
)
def test_gradients(case, tmp_path):
    """They are compared under the names of the file: both are written as if they were weights."""
    reference = adapter_of_peft(*CASES[case], tmp_path)
    model = load(tmp_path)
    load_adapter(model, tmp_path / "theirs")
    ids = torch.randint(2, VOCAB, (B, L))
    ours, expected = model(ids), reference(input_ids=ids).logits
    upstream = torch.randn_like(ours)
    gradients = []
    for one, outputs in ((model, ours), (reference, expected)):
        (outputs * upstream).sum().backward()
        with torch.no_grad():
            for parameter in one.parameters():
                if parameter.requires_grad:
                    grad = parameter.grad
                    parameter.copy_(torch.zeros_like(parameter) if grad is None else grad)
    kind = json.loads((tmp_path / "base" / "config.json").read_text())["model_type"]
    save_adapter(model, tmp_path / "ours", model_type=kind)
    reference.save_pretrained(tmp_path / "gradients")
    gradients = [
        load_file(tmp_path / f / "adapter_model.safetensors") for f in ("ours", "gradients")
    ]
    largest = max(other.abs().max() for other in gradients[1].values())
    for name, mine in gradients[0].items():
        other = gradients[1][name]
        # Of a key's bias nothing but the rounding of much larger numbers is left.
        rounding = name.endswith(("key.bias", "key.base_layer.bias")) or not other.any()
        scale = largest if rounding else other.abs().max()
        frozen = "mica" in case and "lora_B" in name
        assert frozen or (mine - other).abs().max() / scale <= 1e-11, name


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq"])
def test_an_init_that_changed_the_base_is_refused_with_the_way_out(init, tmp_path):
    adapter_of_peft(*CASES["gaussian"], tmp_path)
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": init}))
    message = f"init_lora_weights = '{init}' is not implemented; expected .*'eva'.*path_initial_mod"
    with pytest.raises(ConfigError, match=message):
        load_adapter(load(tmp_path), tmp_path / "theirs")


def test_another_weight_beside_an_embedding_is_another_base(tmp_path):
    adapter_of_peft(*CASES["embedding and output"], tmp_path)
    path = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.transformer.wte.base_layer.weight"
    for changed in (tensors[name] + 1e-3, torch.randn(VOCAB + 2, 22).double()):
        save_file(tensors | {name: changed}, path)
        with pytest.raises(DataError, match=r"wte\.weight.*differs from this model's.*vocabulary"):
            load_adapter(load(tmp_path), tmp_path / "theirs")
    save_file(tensors | {name: tensors[name].bfloat16()}, path)  # as narrow files have it
    load_adapter(load(tmp_path), tmp_path / "theirs")


@pytest.mark.parametrize("target", ["shared", "embed_tokens"])
def test_an_update_of_one_of_several_embeddings_has_no_place(target, tmp_path):
    adapter_of_peft("t5", {"target_modules": ["q", target]}, tmp_path)
    with pytest.raises(DataError, match=rf"{target} is not a separate linear layer or embedding"):
        load_adapter(load(tmp_path), tmp_path / "theirs")


@pytest.mark.parametrize(
    ("case", "fields", "drop", "message"),
    [
        ("dora", {"use_dora": False}, "", r"lora_magnitude_vector .*without use_dora"),
        ("dora", {}, "query.lora_magnitude_vector", "lora_magnitude_vector .* is missing: target"),
        ("biases of layers", {}, "key.base_layer.bias", r"key\.bias .* is missing: .*'lora_only'"),
        ("all biases", {}, "output.LayerNorm.bias", r"LayerNorm\.bias .* is missing: .*'all'"),
        ("one layer", {"layers_to_transform": [0]}, "", "does not name bert.encoder.layer.1"),
        ("one layer", {"layers_pattern": ["blocks"]}, "", "does not name bert.encoder.layer.1"),
        ("embedding", {}, "lora_embedding_B", "lora_embedding_B .* is missing: target_modules"),
    ],
)
def test_what_the_config_does_not_announce_or_the_file_lacks(case, fields, drop, message, tmp_path):
    adapter_of_peft(*CASES[case], tmp_path)
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    path = tmp_path / "theirs" / "adapter_model.safetensors"
    save_file({n: x for n, x in load_file(path).items() if not drop or not n.endswith(drop)}, path)
    with pytest.raises(DataError, match=message):
        load_adapter(load(tmp_path), tmp_path / "theirs")


def test_layers_beside_a_regular_expression_are_refused(tmp_path):
    adapter_of_peft(*CASES["one layer"], tmp_path)
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_modules": ".*query"}))
    with pytest.raises(ConfigError, match=r"layers_to_transform = \[1\] with target_modules = "):
        load_adapter(load(tmp_path), tmp_path / "theirs")


@pytest.mark.parametrize("pattern", ["query|value", "query|key|value", "0.*key|head"])
@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_dora_on_a_part_of_gpts_projection(pattern, rank_stabilized, tmp_path):
    """What has no update there has the lengths that its rows have: nothing is stretched."""
    theirs = MODELS["untied"]().double()
    for parameter in theirs.parameters():
        randomize(parameter)
    theirs.save_pretrained(tmp_path / "base")
    model = load(tmp_path)
    lora = LoRAConfig(pattern=pattern, rank=RANK, alpha=ALPHA, rank_stabilized=rank_stabilized)
    add_lora(model, replace(lora, dora=True))
    for layer in lora_layers(model).values():
        for factor in (layer.A, layer.B):
            randomize(factor)
        nn.init.uniform_(layer.magnitude, 1, 3)
    save_adapter(model, tmp_path / "ours")
    compare("untied", model, peft_reads("untied", tmp_path))
    again = load(tmp_path)
    load_adapter(again, tmp_path / "ours")
    merge_lora(again)
    ids = torch.randint(2, VOCAB, (B, L))
    with torch.no_grad():
        assert measure(again(ids), model(ids)) <= EXACT


@pytest.mark.parametrize(("bias", "trained"), [("all", ".bias"), ("lora_only", "query.base.bias")])
def test_biases_that_we_train(bias, trained, tmp_path):
    theirs = MODELS["bert"]().double()
    theirs.save_pretrained(tmp_path / "base")
    model = load(tmp_path)
    add_lora(model, LoRAConfig(pattern="query", train=("classifier",)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name.endswith(trained))
        if parameter.requires_grad:
            randomize(parameter)
    save_adapter(model, tmp_path / "ours", model_type="bert")
    assert json.loads((tmp_path / "ours" / "adapter_config.json").read_text())["bias"] == bias
    compare("bert", model, peft_reads("bert", tmp_path))
    model.encoder.norm.bias.requires_grad_(bias == "lora_only")
    with pytest.raises(
        ConfigError, match="biases, either all or those of layers with LoRA; expected"
    ):
        save_adapter(model, tmp_path / "again", model_type="bert")


def test_an_embedding_of_ours_that_is_several_of_theirs_is_not_saved(tmp_path):
    model = load_checkpoint(saved("t5", tmp_path)).model
    attach_lora(model, {"embedding": LoRAConfig()}, tied=True)
    with pytest.raises(ConfigError, match="embedding: PEFT's files cannot store this update"):
        save_adapter(model, tmp_path / "ours")


def saved(model, folder):
    MODELS[model]().save_pretrained(folder)
    return folder
