"""ONNX Runtime computes what the model does, for any batch and length."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.checking import NIGHTLY
from tests.checkpoints.folders import contents, model, write
from tests.checkpoints.tiny import TINY
from tests.helpers import distance, right_mask

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.inference.optimize import optimize
from qkv.models.encoder_decoder import EncoderDecoder
from qkv.models.lora import add_lora
from qkv.models.lora_layers import LoRAConfig
from qkv.models.pooling import mean_token
from qkv.models.vit import pair
from qkv.tasks import export_onnx
from qkv.tasks.conversion import convert_model
from qkv.tasks.export_onnx import DECODER, ENCODER, MODEL, export
from qkv.tasks.pretrained import Loaded, load

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

BOUND = 1e-5
BY_DAY = (
    ("bert", "BertModel"),
    ("distilbert", "DistilBertForSequenceClassification"),
    ("vit", "ViTForImageClassification"),
    ("llama", "LlamaForCausalLM"),
    ("marian", "MarianMTModel"),
)
AT_NIGHT = (
    ("bert", "BertForPreTraining"),
    ("roberta", "RobertaForQuestionAnswering"),
    ("distilbert", "DistilBertForTokenClassification"),
    ("deit", "DeiTForImageClassificationWithTeacher"),
    ("gpt2", "GPT2LMHeadModel"),
    ("gpt2", "GPT2ForSequenceClassification"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForTokenClassification"),
    ("bart", "BartForConditionalGeneration"),
    ("mbart", "MBartForConditionalGeneration"),
    ("t5", "T5ForConditionalGeneration"),
    ("mt5", "MT5EncoderModel"),
    ("qkv_transformer", None),
)
CASES = (*BY_DAY, *AT_NIGHT) if NIGHTLY else BY_DAY
# Each export takes seconds, by the number of layers.
ONE_LAYER = dict.fromkeys(("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers"), 1)
BATCHES = [([11, 3, 7], 11), ([13, 13, 2, 5, 1], 13), ([1], 1)]  # lengths of rows, of the batch
POOLING = {
    "modules.json": [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "p"}],
    "p/config.json": {"pooling_mode_mean_tokens": True},
}
# A process of its own: the shape checks of the tests are code that no graph can hold.
SCRIPT = """
import json, sys
from qkv.tasks.conversion import convert_model
for source, target in json.load(sys.stdin):
    convert_model(source, target, format="onnx")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models by their architectures; beside each, in ARCHITECTURE-onnx, its export."""
    folder = tmp_path_factory.mktemp("onnx")
    for family, architecture in CASES:
        few = {} if NIGHTLY else {k: n for k, n in ONE_LAYER.items() if k in TINY[family]}
        one = model(family, architecture, **few)
        files = {name: json.dumps(content).encode() for name, content in POOLING.items()}
        source = folder / str(architecture)
        used = files if architecture == "BertModel" else {}
        save_checkpoint(Checkpoint(one, {"model_type": family}), source, files=used)
    pairs = [(str(path), f"{path}-onnx") for path in folder.iterdir()]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        input=json.dumps(pairs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return folder


class Session:
    """A graph in ONNX Runtime: tensors by name to tensors by name."""

    def __init__(self, path):
        self.graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.inputs = {one.name: one.shape for one in self.graph.get_inputs()}

    def __call__(self, **inputs):
        found = self.graph.run(None, {name: one.numpy() for name, one in inputs.items()})
        names = [one.name for one in self.graph.get_outputs()]
        return dict(zip(names, map(torch.from_numpy, found), strict=True))


def compare_texts(one, source):
    session = Session(source / MODEL)
    assert session.inputs.keys() >= {"input_ids", "attention_mask"}
    assert set(map(tuple, session.inputs.values())) == {("batch", "length")}
    generator = torch.Generator().manual_seed(1)
    for lengths, width in BATCHES:
        tokens = torch.randint(37, (len(lengths), width), generator=generator)
        mask = right_mask(lengths, width)
        inputs = {"input_ids": tokens, "attention_mask": mask.long()}
        options = {}
        if "token_type_ids" in session.inputs:
            options["segments"] = torch.randint(2, tokens.shape, generator=generator)
            inputs["token_type_ids"] = options["segments"]
        found = session(**inputs)
        ours = one(tokens, token_mask=mask, **options)
        if "sentence_embedding" in found:
            expected = F.normalize(mean_token(ours, mask), dim=-1)
            assert distance(found["sentence_embedding"], expected) <= BOUND
        if "pooler_output" in found:
            assert distance(found["pooler_output"], one.pool(ours, mask)) <= BOUND
        names = ("start_logits", "end_logits")
        if "start_logits" in found:
            theirs = torch.stack([found[name] for name in names], -1)
        elif "prediction_logits" in found:
            assert distance(found["seq_relationship_logits"], ours[1]) <= BOUND
            theirs, ours = found["prediction_logits"], ours[0]
        else:
            theirs = found.get("logits", found.get("last_hidden_state"))
        if theirs.shape[:2] == mask.shape:  # at real tokens
            theirs, ours = theirs[mask], ours[mask]
        assert distance(theirs, ours) <= BOUND


def compare_images(one, source):
    session = Session(source / MODEL)
    config = one.encoder.config
    size = (config.n_channels, *pair(config.image_size))
    assert session.inputs == {"pixel_values": ["batch", *size]}
    for rows in (1, 5):
        images = torch.randn((rows, *size), generator=torch.Generator().manual_seed(rows))
        assert distance(session(pixel_values=images)["logits"], one(images)) <= BOUND


def compare_encoder_decoder(one, source):
    encoder, decoder = Session(source / ENCODER), Session(source / DECODER)
    assert decoder.inputs["encoder_hidden_states"][:2] == ["batch", "source_length"]
    generator = torch.Generator().manual_seed(1)
    for lengths, width in BATCHES:
        tokens = torch.randint(17, (len(lengths), width), generator=generator)
        target = torch.randint(17, (len(lengths), width + 4), generator=generator)
        mask = right_mask(lengths, width)
        memory = encoder(input_ids=tokens, attention_mask=mask.long())["last_hidden_state"]
        assert distance(memory[mask], one.encode(tokens, mask)[mask]) <= BOUND
        found = decoder(
            input_ids=target, encoder_hidden_states=memory, encoder_attention_mask=mask.long()
        )
        assert distance(found["logits"], one(tokens, target, source_mask=mask)) <= BOUND


@pytest.mark.parametrize("architecture", [str(one[1]) for one in CASES])
@torch.no_grad()
def test_the_engine_gives_the_numbers_of_the_model(architecture, folder):
    one, source = load(folder / architecture).model, folder / f"{architecture}-onnx"
    assert contents(source)["config.json"] == contents(folder / architecture)["config.json"]
    if isinstance(one, EncoderDecoder):
        compare_encoder_decoder(one, source)
    elif "Image" in architecture:
        compare_images(one, source)
    else:
        compare_texts(one, source)


def test_the_files_beside_the_weights_are_copied(folder):
    source = contents(folder / "BertModel")
    exported = contents(folder / "BertModel-onnx")
    del source["model.safetensors"]
    assert {name: exported.pop(name) for name in source} == source
    assert exported.keys() == {MODEL}


def test_a_graph_that_computes_something_else_is_not_written(folder, tmp_path, monkeypatch):
    loaded = load(folder / "BertModel")
    path = folder / "BertModel-onnx" / MODEL
    graph = export_onnx.graphs_of(loaded)[0]
    module = export_onnx._Module(loaded.model, graph).eval()
    export_onnx._check(loaded.model, graph, module, path)
    loaded.model.norm.weight.data *= 1.01
    with pytest.raises(
        ConfigError, match=r"last_hidden_state of model.onnx differs from this Bert"
    ):
        export_onnx._check(loaded.model, graph, module, path)


@pytest.mark.parametrize(
    ("family", "architecture"),
    [
        ("qkv_rnn", None),
        ("qkv_hybrid", None),
        ("qkv_pointer_generator", None),
        ("bart", "BartForSequenceClassification"),
        ("bert", "BertForMultipleChoice"),
    ],
)
def test_a_model_without_a_graph(family, architecture, tmp_path):
    write(tmp_path / "source", family, architecture)
    with pytest.raises(ConfigError, match=r"a \w+( on a \w+)? cannot be written as ONNX; expected"):
        convert_model(tmp_path / "source", tmp_path / "new", format="onnx")
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_made_of_plain_weights(tmp_path):
    with pytest.raises(ConfigError, match="an optimized model cannot be written as ONNX"):
        export(Loaded(optimize(model("gpt2"), "int8")), tmp_path / "new")
    with_lora = model("gpt2")
    add_lora(with_lora, LoRAConfig(rank=3))
    with pytest.raises(ConfigError, match=r"LoRA on .*merge_lora"):
        export(Loaded(with_lora), tmp_path / "new")
    with pytest.raises(ConfigError, match=r"a model in torch.float64 for ONNX; expected float32"):
        export(Loaded(model("gpt2").double()), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_options_that_do_not_fit_the_format(tmp_path):
    write(tmp_path / "source")
    with pytest.raises(
        ConfigError, match="--dtype int8 for a folder with graphs of ONNX; expected"
    ):
        convert_model(tmp_path / "source", tmp_path / "new", format="onnx", dtype="int8")
    with pytest.raises(ConfigError, match=r"--format onnx for .*x.gguf; expected a file NAME.gguf"):
        convert_model(tmp_path / "source", tmp_path / "x.gguf", format="onnx")
    with pytest.raises(DataError, match=r"x.onnx looks like a file"):
        convert_model(tmp_path / "source", tmp_path / "x.onnx", format="onnx")


def test_other_files_are_never_replaced(folder, tmp_path):
    loaded = load(folder / "BertModel")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for path in (tmp_path / "notes", folder / "BertModel"):
        before = contents(path)
        with pytest.raises(DataError, match=r"has files, but no model.onnx or .* is not changed"):
            export(loaded, path)
        assert contents(path) == before
    # An earlier export is replaced, unless there is something of the user's beside it.
    (tmp_path / "notes" / MODEL).write_bytes(b"old")
    before = contents(tmp_path)
    replace = export_onnx.replace_export(tmp_path / "notes", loaded, export_onnx.MARKS)
    with pytest.raises(DataError, match=r"has mine.txt beside an export"), replace as fresh:
        (fresh / MODEL).write_bytes(b"new")
    assert contents(tmp_path) == before


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r'onnxscript, which .*pip install "qkv\[exp'):
        export(Loaded(model("gpt2")), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_examples_have_the_sizes_of_the_model():
    config = {"max_position_embeddings": 5}
    tokens, mask, segments = export_onnx.example(
        model("bert", **config), ("input_ids", "attention_mask", "token_type_ids"), 3, 7
    )
    assert tokens.shape == mask.shape == segments.shape == (3, 5)
    assert np.array_equal(mask.sum(1), [5, 5, 3])
    assert int(segments.max()) == 1
