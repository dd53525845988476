"""Files that are wrong in any way: each is a load or one of our errors, and never a traceback.

Mutants of small checkpoints are drawn with a seed; what once went wrong stands below them by hand.
"""

import json
import os
import random
import time
from contextlib import suppress

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.folders import put_together, take_apart, write
from tests.checkpoints.tiny import TINY
from tests.helpers import unchecked

from qkv.checkpoints.reader import open_weights
from qkv.data.tokenizers import load_tokenizer
from qkv.errors import ConfigError, DataError, QKVError
from qkv.tasks.pretrained import load
from qkv.tasks.task import task_of

WRONG = [
    *(None, True, False, 0, 1, -1, -7, 2, 3, 5, 10_000, 10**7, 10**9, 2**62, 2**63, 10**400),
    *(0.0, 0.5, -1.0, 1e-5, 1e308, float("nan"), float("inf")),
    *("", "x", "512", "a" * 5000, "\ud800", "gelu", "\0"),
    *([], [1], ["x"], [[1]], [None], {}, {"a": 1}, {"0": "x"}, {"x": {}}, {"rope_type": []}),
]
NAMES = [
    *("architectures", "id2label", "label2id", "num_labels", "problem_type", "tokenizer_class"),
    *("pad_token_id", "eos_token_id", "decoder_start_token_id", "model_type", "torch_dtype"),
    *("rope_scaling", "rope_parameters", "rope_theta", "layer_types", "sliding_window", "name"),
    *("hidden_act", "quantization_config", "max_length", "_name_or_path", "vocab_size"),
    "task_specific_params",
]
LONGEST = 2  # seconds of this process for one mutant
LONGEST_MESSAGE = 1500  # characters, of which paths are many


def outcome(read):
    """What became of it: "loads", or the class of our error."""
    start, error = time.process_time(), None
    try:
        with unchecked():
            read()
    except QKVError as refused:
        error = refused
    assert time.process_time() - start < LONGEST
    assert len(str(error)) < LONGEST_MESSAGE, str(error)[:LONGEST_MESSAGE]
    return "loads" if error is None else type(error).__name__


@pytest.mark.parametrize("model_type", TINY)
def test_mutants_of_config_json(tmp_path, model_type):
    choose = random.Random(model_type)
    write(tmp_path / "x", model_type)
    path = tmp_path / "x" / "config.json"
    whole = json.loads(path.read_text())
    names = sorted({*whole, *NAMES})
    outcomes = set()
    with suppress(QKVError):
        task_of(str(tmp_path / "x"))  # its imports are not timed
    for _ in range(40):
        raw = dict(whole)
        for name in choose.sample(names, choose.choice((1, 1, 1, 2))):
            raw[name] = choose.choice(WRONG)
        path.write_text(json.dumps(raw))
        outcomes.add(outcome(lambda: load(tmp_path / "x")))
        outcomes.add(outcome(lambda: task_of(str(tmp_path / "x"))))
    assert {"loads", "ConfigError"} <= outcomes


def test_mutants_of_a_header(tmp_path):
    choose = random.Random(0)
    write(tmp_path / "x")
    file = tmp_path / "x" / "model.safetensors"
    header, data = take_apart(file)
    for _ in range(60):
        raw = json.loads(json.dumps(header))
        name = choose.choice([*header, "__metadata__"])
        entry = raw.get(name)
        if isinstance(entry, dict) and name != "__metadata__" and choose.random() < 0.7:
            entry[choose.choice(sorted(entry))] = choose.choice(WRONG)
        else:
            raw[name] = choose.choice(WRONG)
        put_together(file, raw, data)
        outcome(lambda: load(tmp_path / "x"))


TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
SETTINGS = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "mask_token": "[MASK]",
    "unk_token": {"content": "[UNK]"},
    "model_max_length": 512,
    "added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}},
    "additional_special_tokens": [],
    "extra_ids": 100,
    "add_bos_token": True,
    "chat_template": "x",
    "never_split": None,
}


def test_mutants_of_a_tokenizers_settings(tmp_path):
    choose = random.Random(0)
    write(tmp_path / "x")
    (tmp_path / "x" / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    for file in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        path = tmp_path / "x" / file
        for _ in range(60):
            raw = dict(SETTINGS) if file != "added_tokens.json" else {"[PAD]": 0}
            raw[choose.choice(sorted(raw))] = choose.choice(WRONG)
            path.write_text(json.dumps(raw))
            outcome(lambda: load_tokenizer(tmp_path / "x"))
        path.unlink()


IMAGES = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 15, "width": 11},
    "resample": 2,
    "do_center_crop": False,
    "crop_size": 7,
    "do_rescale": True,
    "rescale_factor": 0.1,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def test_mutants_of_a_preprocessor(tmp_path):
    choose = random.Random(0)
    write(tmp_path / "x", "vit")
    for _ in range(100):
        raw = dict(IMAGES)
        name = choose.choice(sorted(raw))
        raw[name] = choose.choice([*WRONG, [choose.choice(WRONG)] * 3, {"height": 3, "width": -1}])
        (tmp_path / "x" / "preprocessor_config.json").write_text(json.dumps(raw))
        outcome(lambda: load(tmp_path / "x"))


ADAPTER = {
    "peft_type": "LORA",
    "r": 3,
    "lora_alpha": 6,
    "target_modules": ["query"],
    "base_model_name_or_path": "x",
    "rank_pattern": {},
}


def test_mutants_of_an_adapter(tmp_path, monkeypatch):
    choose = random.Random(0)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x")
    (tmp_path / "a").mkdir()
    tensors = {
        f"base_model.model.encoder.layer.{i}.attention.self.query.lora_{part}.weight": torch.ones(s)
        for i in range(3)
        for part, s in (("A", (3, 22)), ("B", (22, 3)))
    }
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    outcomes = set()
    for i in range(80):
        adapter, own = dict(ADAPTER), dict(config)
        changed = adapter if i % 2 else own
        changed[choose.choice(sorted({*changed, *(NAMES if changed is own else ())}))] = (
            choose.choice(WRONG)
        )
        (tmp_path / "a" / "config.json").write_text(json.dumps(own))
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(adapter))
        outcomes.add(outcome(lambda: load(tmp_path / "a")))
    assert "ConfigError" in outcomes


def change(folder, **said):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


@pytest.mark.parametrize(
    ("model_type", "said", "message"),
    [
        ("bert", {"num_hidden_layers": 10_000}, "num_hidden_layers = 10000, but there are only"),
        ("gpt2", {"n_layer": 10**7}, "n_layer = 10000000, but there are only .* tensors"),
        ("llama", {"num_hidden_layers": 10**7}, "num_hidden_layers = 10000000, but there are only"),
        ("qwen2", {"num_hidden_layers": 10**7}, "num_hidden_layers = 10000000, but there are only"),
        ("t5", {"num_layers": 10**4}, "num_layers = 10000, but there are only"),
        ("qkv_transformer", {"n_encoder_layers": 10**7}, "n_encoder_layers = 10000000, but the"),
        ("bert", {"num_labels": 10**9}, "num_labels = 1000000000; expected at most 1,048,576"),
        ("vit", {"patch_size": 0}, "0 is not a size"),
        ("vit", {"image_size": 2**62}, "4611686018427387904 is not a size"),
        ("bert", {"id2label": ["a", "b"]}, r"id2label = \['a', 'b'\]; expected an object from"),
        ("bert", {"id2label": {"a": "b"}}, "id2label = {'a': 'b'}; expected an object from class"),
        ("bert", {"num_labels": -1}, "num_labels = -1; expected a whole number of at least 0"),
        ("bert", {"architectures": 5}, "architectures = 5; expected a list, each a string"),
        ("bert", {"architectures": {"a": 1}}, "architectures = {'a': 1}; expected a list"),
        ("bert", {"problem_type": "poetry"}, 'problem_type = .*; expected "regression" or'),
        ("bert", {"task_specific_params": 5}, "task_specific_params = 5; expected an object"),
        ("llama", {"rope_theta": 0}, "base = 0.0 of rotary positions; expected a finite"),
        ("llama", {"rope_theta": float("nan")}, "rope_theta = nan; expected a number"),
        ("llama", {"rms_norm_eps": float("inf")}, "rms_norm_eps = inf; expected a number"),
        ("marian", {"pad_token_id": 10**9}, "pad_token_id = 1000000000, but vocab_size = 37"),
        (
            "bart",
            {"decoder_start_token_id": 37},
            "decoder_start_token_id = 37, but vocab_",
        ),
        ("bert", {"vocab_size": "x" * 5000}, r"vocab_size = 'x+\.\.\.x+'; expected"),
    ],
)
def test_a_config_is_refused_by_name(tmp_path, model_type, said, message):
    write(tmp_path / "x", model_type)
    change(tmp_path / "x", **said)
    start = time.process_time()
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "x")
    assert time.process_time() - start < LONGEST


def test_num_labels_that_is_null_is_left_out(tmp_path):
    write(tmp_path / "x", "bert", "BertForSequenceClassification")
    change(tmp_path / "x", num_labels=None)
    assert load(tmp_path / "x").model.n_classes == 5


@pytest.mark.parametrize("new", ["classifier", "encoder.embedding"])
def test_sizes_are_compared_with_the_file_before_memory_is_asked_for(tmp_path, new):
    write(tmp_path / "x", "bert", "BertForSequenceClassification")
    change(tmp_path / "x", vocab_size=2**27)
    with pytest.raises(
        QKVError, match=r"expected \(134217728, 22\)|newly initialized with 2,952,790,0"
    ):
        load(tmp_path / "x", new=new)


@pytest.mark.parametrize(
    "name", ["x\0y", "\ud800", "a" * 5000, f"{'a' * 5000}/b", "../\udcff", "."], ids=range(6)
)
def test_a_name_that_no_file_can_have(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert outcome(lambda: load(name)) in ("DataError", "MissingDependencyError")


def test_links_pipes_and_depth(tmp_path):
    write(tmp_path / "x")
    (tmp_path / "x" / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    settings = tmp_path / "x" / "tokenizer_config.json"
    settings.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"tokenizer_config\.json cannot be read"):
        load(tmp_path / "x")
    settings.unlink()
    settings.symlink_to(settings)
    with pytest.raises(DataError, match=r"tokenizer_config\.json cannot be read"):
        load(tmp_path / "x")
    settings.unlink()
    settings.write_text("[" * 100_000)
    with pytest.raises(DataError, match="nested too deeply"):
        load(tmp_path / "x")
    settings.unlink()
    os.mkfifo(settings)
    with pytest.raises(DataError, match="it is not a regular file"):
        load(tmp_path / "x")


def test_half_of_a_character_is_refused_where_it_is_read(tmp_path):
    write(tmp_path / "x")
    change(tmp_path / "x", name="\ud800")
    with pytest.raises(DataError, match="an unpaired surrogate"):
        load(tmp_path / "x")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_numbers_that_nothing_is_computed_in(tmp_path, dtype):
    write(tmp_path / "x")
    tensors = {name: one.to(dtype) for name, one in open_weights(tmp_path / "x").items()}
    save_file(tensors, tmp_path / "x" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=rf"has dtype {dtype}; expected floating point"):
        load(tmp_path / "x")


def test_an_adapter_whose_base_is_itself(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    adapter = json.dumps(ADAPTER | {"base_model_name_or_path": str(tmp_path / "a")})
    (tmp_path / "a" / "adapter_config.json").write_text(adapter)
    with pytest.raises(DataError, match="which has only an adapter"):
        load(tmp_path / "a")


def test_an_adapters_config_that_contradicts_its_base(tmp_path):
    write(tmp_path / "x")
    write(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    adapter = json.dumps(ADAPTER | {"base_model_name_or_path": str(tmp_path / "x")})
    (tmp_path / "a" / "adapter_config.json").write_text(adapter)
    change(tmp_path / "a", architectures=["BertForSequenceClassification"], hidden_size=33)
    with pytest.raises(ConfigError, match="contradicts the base of the adapter in d_model"):
        load(tmp_path / "a")
    change(tmp_path / "a", hidden_size=-(10**9))
    with pytest.raises(ConfigError, match="hidden_size = -1000000000; expected a whole number"):
        load(tmp_path / "a")
