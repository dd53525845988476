"""LoRA adapters against PEFT, through files, both ways, in float64 and float32."""

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.helpers import assert_as_exact
from tests.parity.causal import CLASSES, VOCAB
from tests.parity.published import through_a_file
from tests.parity.reference import BOTH, agree, in_float64
from tests.parity.weights import measure, randomize

from qkv.checkpoints.adapters import load_adapter, save_adapter
from qkv.checkpoints.checkpoint import load_checkpoint
from qkv.errors import ConfigError
from qkv.generation.greedy import greedy
from qkv.models.lora import LoRAConfig, add_lora, lora_layers, merge_lora

RANK, ALPHA, LAYERS, B, L = 3, 7.0, 2, 3, 13
T = transformers
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 22,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 11,
    "intermediate_size": 29,
    "max_position_embeddings": 41,
    "num_labels": CLASSES,
}
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 29,
    "num_hidden_layers": LAYERS,
}
GPT = {"vocab_size": VOCAB, "n_embd": 22, "n_head": 11, "n_layer": LAYERS, "n_inner": 29}
GPT |= {"bos_token_id": None, "eos_token_id": None}
VIT = {
    "image_size": 15,
    "patch_size": 5,
    "hidden_size": 22,
    "num_attention_heads": 11,
    "num_hidden_layers": LAYERS,
    "intermediate_size": 29,
    "num_labels": CLASSES,
}
DISTILBERT = {"vocab_size": VOCAB, "dim": 22, "n_heads": 11, "hidden_dim": 29, "n_layers": LAYERS}
T5 = {"vocab_size": VOCAB, "d_model": 23, "num_heads": 11, "d_kv": 5, "d_ff": 29, "num_layers": 2}
# The base model, what PEFT is told, and what we are told.
CASES = {
    "bert": (
        lambda: T.BertForSequenceClassification(T.BertConfig(**BERT)),
        {"target_modules": ["query", "value", "dense"], "task_type": "SEQ_CLS"},
        {"pattern": r"query|value|feed_forward", "train": ("classifier",)},
    ),
    "bert-base": (
        lambda: T.BertModel(T.BertConfig(**BERT)),
        {"target_modules": r".*layer\.1\.attention\.self\.(query|key)"},
        {"pattern": r"1\.self_attention\.(query|key)", "train": ("norm",)},
    ),
    "distilbert": (
        lambda: T.DistilBertForSequenceClassification(
            T.DistilBertConfig(**DISTILBERT, num_labels=CLASSES)
        ),
        {"target_modules": ["q_lin", "lin1"], "task_type": "SEQ_CLS"},
        {"pattern": "query|up", "train": ("classifier.output",)},
    ),
    "llama": (
        lambda: T.LlamaForCausalLM(T.LlamaConfig(**LLAMA)),
        {"target_modules": "all-linear", "task_type": "CAUSAL_LM"},
        {"pattern": "stack|head"},
    ),
    "gpt2": (
        lambda: T.GPT2LMHeadModel(T.GPT2Config(**GPT)),
        {"target_modules": ["c_attn", "c_proj"], "task_type": "CAUSAL_LM", "fan_in_fan_out": True},
        {"pattern": "query|key|value|output|down", "train": ("stack.norm",)},
    ),
    "vit": (
        lambda: T.ViTForImageClassification(T.ViTConfig(**VIT)),
        {"target_modules": ["q_proj", "o_proj", "fc2"], "modules_to_save": ["classifier"]},
        {"pattern": "self_attention|feed_forward", "train": ("classifier", "encoder.stack.norm")},
    ),
    "t5": (
        lambda: T.T5ForConditionalGeneration(T.T5Config(**T5)),
        {"target_modules": ["q", "v", "wi"], "task_type": "SEQ_2_SEQ_LM"},
        {"pattern": "query|value|up"},
    ),
}
each = pytest.mark.parametrize("case", CASES)
each_scale = pytest.mark.parametrize(
    ("case", "use_rslora"), [*((case, False) for case in CASES), ("bert", True), ("gpt2", True)]
)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def base(case, folder):
    """Their model with random weights in a folder."""
    theirs = CASES[case][0]()
    through_a_file(theirs, folder)
    return theirs


def theirs_in(case, folder):
    return type(CASES[case][0]()).from_pretrained(folder).eval()


def adapter_of_peft(case, theirs, folder, **options):
    """Let PEFT make an adapter, with random values where it starts at 0, and save it."""
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, **{**CASES[case][1], **options})
    model = peft.get_peft_model(theirs, config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            randomize(parameter)
    model.save_pretrained(folder)
    return model


def inputs(case):
    if case == "vit":
        return {"pixel_values": torch.randn(B, 3, 15, 15)}
    ids = torch.randint(2, VOCAB, (B, L))
    if case == "t5":
        return {"input_ids": ids, "decoder_input_ids": torch.randint(2, VOCAB, (B, 7))}
    return {"input_ids": ids}


def in_dtype(given, dtype):
    return {n: x.to(dtype) if x.is_floating_point() else x for n, x in given.items()}


def compare(case, ours, theirs, precisions=BOTH):
    given = inputs(case)

    @torch.no_grad()
    def numbers(ours, theirs, dtype):
        cast = in_dtype(given, dtype)
        return {"output": (ours(*cast.values()), theirs(**cast)[0])}

    agree(numbers, ours, theirs, precisions)


@torch.no_grad()
def compare_merged(case, ours, theirs):
    """Merge both in float32, which rounds each weight, and compare with theirs before."""
    given = inputs(case)
    exact = in_float64(theirs)(**in_dtype(given, torch.float64))[0]
    merge_lora(ours)
    assert_as_exact(ours(*given.values()), theirs.merge_and_unload()(**given)[0], exact)


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def ours_randomized(case, folder, **options):
    """Our LoRA on a base model, whose trained parameters are random."""
    model = load_checkpoint(folder).model
    add_lora(model, LoRAConfig(**{"rank": RANK, "alpha": ALPHA, **CASES[case][2], **options}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            randomize(parameter)
    return model


def save(model, folder, base, **options):
    kind = json.loads((base / "config.json").read_text())["model_type"]
    save_adapter(model, folder, model_type=kind, **options)


def read_by_peft(case, base, adapter):
    return peft.PeftModel.from_pretrained(theirs_in(case, base), adapter).eval()


@each_scale
def test_theirs_is_read(case, use_rslora, tmp_path):
    theirs = base(case, tmp_path / "base")
    reference = adapter_of_peft(case, theirs, tmp_path / "theirs", use_rslora=use_rslora)
    model, without = (load_checkpoint(tmp_path / "base").model for _ in range(2))
    load_adapter(model, tmp_path / "theirs")
    compare(case, model, reference)
    with pytest.raises(AssertionError):
        compare(case, without, reference)
    save(model, tmp_path / "ours", tmp_path / "base")
    first, second = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@each_scale
def test_ours_is_read(case, use_rslora, tmp_path):
    base(case, tmp_path / "base")
    model = ours_randomized(case, tmp_path / "base", rank_stabilized=use_rslora)
    save(model, tmp_path / "ours", tmp_path / "base")
    theirs = read_by_peft(case, tmp_path / "base", tmp_path / "ours")
    compare(case, model, theirs)
    again = load_checkpoint(tmp_path / "base").model
    load_adapter(again, tmp_path / "ours")
    compare(case, again, theirs)
    compare_merged(case, again, theirs)


@each
def test_merged_is_unmerged_in_float64(case, tmp_path):
    theirs = base(case, tmp_path / "base")
    adapter_of_peft(case, theirs, tmp_path / "theirs")
    model = load_checkpoint(tmp_path / "base", dtype=torch.float64).model
    load_adapter(model, tmp_path / "theirs")
    given = [x.double() if x.is_floating_point() else x for x in inputs(case).values()]
    with torch.no_grad():
        expected = model(*given)
        merge_lora(model)
        assert measure(model(*given), expected) <= 1e-12


@pytest.mark.parametrize("case", ["bert", "vit", "llama"])
def test_gradients(case, tmp_path):
    """They are compared under the names of the file: both are written as if they were weights."""
    theirs = base(case, tmp_path / "base")
    reference = in_float64(adapter_of_peft(case, theirs, tmp_path / "theirs"))
    model = load_checkpoint(tmp_path / "base", dtype=torch.float64).model
    load_adapter(model, tmp_path / "theirs")
    given = in_dtype(inputs(case), torch.float64)
    ours, expected = model(*given.values()), reference(**given).logits
    upstream = torch.randn_like(ours)
    for one, outputs in ((model, ours), (reference, expected)):
        (outputs * upstream).sum().backward()
        trained = {n: p for n, p in one.named_parameters() if p.requires_grad}
        assert {n for n, p in one.named_parameters() if p.grad is not None} == trained.keys()
        for parameter in trained.values():
            parameter.data.copy_(parameter.grad)
    save(model, tmp_path / "ours", tmp_path / "base")
    reference.save_pretrained(tmp_path / "theirs")
    first, second = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert first.keys() == second.keys()
    assert {n for n in first if not measure(first[n], second[n]) <= 1e-12} == set()


@pytest.mark.parametrize("use_rslora", [False, True])
def test_ranks_and_alphas_by_pattern(use_rslora, tmp_path):
    theirs = base("bert", tmp_path / "base")
    patterns = {
        "rank_pattern": {"query": 5, r"layer\.1\.output\.dense": 2},
        "alpha_pattern": {r"0\.attention\.self\..*": 11, "bert.encoder.layer.1.output.dense": 1.5},
    }
    reference = adapter_of_peft(
        "bert", theirs, tmp_path / "theirs", use_rslora=use_rslora, **patterns
    )
    model = load_checkpoint(tmp_path / "base").model
    load_adapter(model, tmp_path / "theirs")
    # Rounding these weights to float32 moves the exact output by 1e-5, a hundred times as much as
    # those of the other tests: float32 compares luck here, float64 which scale is whose.
    compare("bert", model, reference, [torch.float64])
    ranks = {layer.rank for layer in lora_layers(model).values()}
    assert ranks == {2, 3, 5}
    save(model, tmp_path / "ours", tmp_path / "base")
    again = read_by_peft("bert", tmp_path / "base", tmp_path / "ours")
    compare("bert", model, again, [torch.float64])


@pytest.mark.parametrize("pattern", ["query|value", "key", "0.*query|1.*key"])
def test_a_part_of_gpts_projection(pattern, tmp_path):
    base("gpt2", tmp_path / "base")
    model = ours_randomized("gpt2", tmp_path / "base", pattern=pattern)
    save(model, tmp_path / "ours", tmp_path / "base")
    compare("gpt2", model, read_by_peft("gpt2", tmp_path / "base", tmp_path / "ours"))
    again = load_checkpoint(tmp_path / "base", dtype=torch.float64).model
    load_adapter(again, tmp_path / "ours")
    merge_lora(again)
    merge_lora(model.double())
    with torch.no_grad():
        given = inputs("gpt2").values()
        assert measure(again(*given), model(*given)) <= 1e-12


def test_the_modules_of_vit_under_their_old_names(tmp_path):
    theirs = base("vit", tmp_path / "base")
    options = {"target_modules": ["q_proj", "fc2"], "rank_pattern": {"mlp.fc2": 2}}
    reference = adapter_of_peft("vit", theirs, tmp_path / "theirs", **options)
    model = load_checkpoint(tmp_path / "base").model
    old = {".layers.": ".encoder.layer.", "mlp.fc2": "output.dense"}
    old["attention.q_proj"] = "attention.attention.query"
    renamed = {}
    for name, tensor in tensors(tmp_path / "theirs").items():
        for current, before in old.items():
            name = name.replace(current, before)
        renamed[name] = tensor
    save_file(renamed, tmp_path / "theirs" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    # Not "dense", which would name the output of attention too.
    config |= {"target_modules": r".*(query|\d\.output\.dense)"}
    config |= {"rank_pattern": {r"\d\.output\.dense": 2}}
    (tmp_path / "theirs" / "adapter_config.json").write_text(json.dumps(config))
    load_adapter(model, tmp_path / "theirs")
    compare("vit", model, reference)


def test_their_program_finds_the_base_model(tmp_path):
    base("bert", tmp_path / "base")
    model = ours_randomized("bert", tmp_path / "base")
    save(model, tmp_path / "ours", tmp_path / "base", base_model=str(tmp_path / "base"))
    for kind in (peft.AutoPeftModel, peft.AutoPeftModelForSequenceClassification):
        compare("bert", model, kind.from_pretrained(tmp_path / "ours").eval())


def test_a_language_model_goes_on_decoding_with_their_adapter(tmp_path):
    theirs = base("llama", tmp_path / "base")
    reference = adapter_of_peft("llama", theirs, tmp_path / "theirs")
    model = load_checkpoint(tmp_path / "base").model
    load_adapter(model, tmp_path / "theirs")
    prompt = torch.randint(2, VOCAB, (1, 5))
    expected = reference.generate(
        input_ids=prompt, max_new_tokens=7, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found = greedy(model, prompt[:, :-1], start=int(prompt[0, -1]), stop=-1, max_length=7)
    assert found[0].tolist() == expected[0, 5:].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_bias": True}, "lora_bias = True is not implemented"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not implemented"),
        ({"trainable_token_indices": [3, 5]}, r"trainable_token_indices = \[3, 5\] is not"),
        ({"target_parameters": ["x.weight"]}, r"target_parameters = \['x\.weight'\] is not"),
    ],
)
def test_what_their_config_switches_on_is_refused(options, message, tmp_path):
    base("bert", tmp_path / "base")
    config = peft.LoraConfig(**{**CASES["bert"][1], **options})
    config.save_pretrained(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=message):
        load_adapter(load_checkpoint(tmp_path / "base").model, tmp_path / "theirs")


def test_another_method_of_theirs_is_refused(tmp_path):
    theirs = base("bert", tmp_path / "base")
    config = peft.IA3Config(target_modules=["query"], feedforward_modules=[])
    peft.get_peft_model(theirs, config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="peft_type = "):
        load_adapter(load_checkpoint(tmp_path / "base").model, tmp_path / "theirs")
