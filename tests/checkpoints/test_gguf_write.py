"""Written GGUF files: what was read comes back, and what GGUF cannot express is refused."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
from tests.checkpoints import folders
from tests.checkpoints.gguf_files import (
    ARCHITECTURES,
    LAYERS,
    byte_level,
    pieces,
    write,
)
from tests.parity.hard_lines import hard_lines

import qkv
from qkv.blocks.rotary_scaling import TurnsScaling
from qkv.checkpoints.gguf import GGUFFile
from qkv.checkpoints.gguf_rotary import factors_of, find_turns
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, StorageError
from qkv.tasks.conversion import convert_model
from qkv.tasks.export import export_gguf
from qkv.tasks.pretrained import Loaded

# The settings of the small models that GGUF does not have.
USUAL = {
    "llama": {"hidden_act": "silu"},
    "mistral": {"hidden_act": "silu", "sliding_window": None},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "gpt2": {"activation_function": "gelu_new", "scale_attn_by_inverse_layer_idx": False},
}
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TEMPLATE = "{{ bos_token }}{{ messages[0]['content'] }}"
MORE = {
    "tokenizer.chat_template": TEMPLATE,
    "tokenizer.ggml.eot_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0,
    "general.sampling.temp": 0.75,
    "general.sampling.top_p": 0.5,
}
# Determined by the tensors, or about the file and not about the model.
ABOUT = {"general.file_type", "general.type", "general.quantization_version"}


def through_a_folder(source, folder, target, dtype=None):
    """Convert a GGUF file to a folder, and the folder to a GGUF file; returns both files."""
    convert_model(source, folder)
    convert_model(folder, target, dtype=dtype)
    return GGUFFile(source), GGUFFile(target)


def metadata_of(file):
    """The metadata that says something about the model, with the defaults that were left out."""
    start = file.metadata["general.architecture"]
    own = {name: value for name, value in file.metadata.items() if name not in ABOUT}
    for name in (f"{start}.vocab_size", f"{start}.rope.dimension_count"):
        own.pop(name, None)
    return {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False} | own


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", DTYPES)
def test_a_file_comes_back_from_a_folder(tmp_path, architecture, kind):
    source = tmp_path / "model.gguf"
    tokenizer = byte_level("smollm", size=301)
    write(source, architecture, kind, tokenizer=tokenizer, extra=MORE)
    first, second = through_a_folder(source, tmp_path / "folder", tmp_path / "again.gguf")
    assert metadata_of(second) == metadata_of(first)
    assert second.entries.keys() == first.entries.keys()
    for name, one in first.entries.items():
        vector = len(one.shape) == 1 or name == "position_embd.weight"
        assert second.entries[name].kind.name == ("F32" if vector else kind)
        assert second.entries[name].shape == one.shape
        # The model's parameters are of one dtype.
        assert torch.equal(second[name], first[name].to(FLOATS[kind]).to(second[name].dtype)), name
    assert second.metadata["general.file_type"] == {"F32": 0, "F16": 1, "BF16": 32}[kind]


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("added", [(False, False), (True, True)])
def test_ids_of_byte_level_vocabularies(tmp_path, pre, added):
    tokenizer = byte_level(pre)
    flags = dict(zip(("add_bos_token", "add_eos_token"), added, strict=True))
    write(tmp_path / "model.gguf", tokenizer=tokenizer | flags)
    _, file = through_a_folder(tmp_path / "model.gguf", tmp_path / "one", tmp_path / "again.gguf")
    names = {name.removeprefix("tokenizer.ggml."): value for name, value in file.metadata.items()}
    assert {name: names[name] for name in tokenizer | flags} == tokenizer | flags
    ours, again = (qkv.load(tmp_path / name).tokenizer for name in ("model.gguf", "again.gguf"))
    for line in hard_lines():
        assert again.encode(line) == ours.encode(line), line
    assert again.add_special_tokens([7]).ids == [*[1][: added[0]], 7, *[2][: added[1]]]


def test_ids_of_sentencepiece(tmp_path):
    tokenizer, model = pieces()
    write(tmp_path / "model.gguf", tokenizer=tokenizer)
    _, file = through_a_folder(tmp_path / "model.gguf", tmp_path / "one", tmp_path / "again.gguf")
    for name, value in tokenizer.items():
        assert file.metadata[f"tokenizer.ggml.{name}"] == value
    again = qkv.load(tmp_path / "again.gguf").tokenizer
    for line in hard_lines():
        assert again.encode(line) == model.encode(line), line
    assert again.add_special_tokens([7]).ids == [1, 7]


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quantized_matrices_are_those_of_gguf(tmp_path, architecture, kind):
    write(tmp_path / "model.gguf", architecture)
    first, second = through_a_folder(
        tmp_path / "model.gguf", tmp_path / "folder", tmp_path / "small.gguf", dtype=kind
    )
    last = "output.weight" if "output.weight" in first else "token_embd.weight"
    for name, one in second.entries.items():
        if len(one.shape) == 1 or name == "position_embd.weight":
            assert one.kind.name == "F32"
            assert torch.equal(second[name], first[name])
            continue
        assert one.kind.name == ("Q8_0" if name == last else kind.upper())
        number = gguf.GGMLQuantizationType[one.kind.name]
        raw = gguf.quantize(first[name].numpy(), number)
        assert second.blocks(name).numpy().tobytes() == raw.tobytes()
        assert np.array_equal(second[name].numpy(), gguf.dequantize(raw, number)), name
    assert second.metadata["general.quantization_version"] == 2
    weights = dict(qkv.load(tmp_path / "small.gguf").model.named_parameters())
    assert torch.equal(weights["embedding.weight"], second["token_embd.weight"])


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "gpt2"])
def test_a_model_with_narrow_rows_is_loaded_as_it_was(tmp_path, model_type):
    """Rows that are no multiple of a block are written in F16, as by llama.cpp."""
    changes = {}
    if model_type == "llama":
        changes = {"attention_bias": True, "tie_word_embeddings": True, "head_dim": 6}
    model = folders.model(model_type, **USUAL[model_type], **changes)
    export_gguf(Loaded(model, config={"model_type": model_type}), tmp_path / "x.gguf")
    again = qkv.load(tmp_path / "x.gguf").model
    for (name, one), (_, other) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    export_gguf(Loaded(model, config={"model_type": model_type}), tmp_path / "x.gguf", kind="q8_0")
    kinds = {one.kind.name for one in GGUFFile(tmp_path / "x.gguf").entries.values()}
    assert {"F32", "F16"} <= kinds <= {"F32", "F16", "Q8_0"}


def test_the_rows_without_a_token(tmp_path):
    tokenizer = byte_level("gpt-2", size=301)
    write(tmp_path / "model.gguf", tokenizer=tokenizer)
    loaded = qkv.load(tmp_path / "model.gguf")
    model = folders.model("llama", vocab_size=307)
    export_gguf(Loaded(model, loaded.tokenizer), tmp_path / "x.gguf")
    file = GGUFFile(tmp_path / "x.gguf")
    assert file.metadata["tokenizer.ggml.tokens"][300:] == [
        tokenizer["tokens"][300],
        *(f"[PAD{i}]" for i in range(301, 307)),
    ]
    assert file.metadata["tokenizer.ggml.token_type"][301:] == [5] * 6
    again = qkv.load(tmp_path / "x.gguf")
    assert again.tokenizer.vocab_size == 301
    assert again.model.config.vocab_size == 307


def test_a_tokenizer_that_was_trained_here(tmp_path):
    lines = hard_lines()
    tokenizer = Tokenizer.train_bpe(lines, 307).begin_with_stop()
    model = folders.model("llama", vocab_size=307)
    left_out = export_gguf(Loaded(model, tokenizer), tmp_path / "x.gguf")
    assert left_out == []
    file = GGUFFile(tmp_path / "x.gguf")
    assert file.metadata["tokenizer.ggml.pre"] == "gpt-2"
    assert file.metadata["tokenizer.ggml.bos_token_id"] == tokenizer.stop
    again = qkv.load(tmp_path / "x.gguf").tokenizer
    for line in lines:
        assert again.encode(line) == tokenizer.encode(line), line
    assert again.add_special_tokens([7]).ids == [tokenizer.stop, 7]


def test_decoding_rules(tmp_path):
    write(tmp_path / "model.gguf", tokenizer=byte_level("gpt-2", size=301), extra=MORE)
    convert_model(tmp_path / "model.gguf", tmp_path / "folder")
    path = tmp_path / "folder" / "generation_config.json"
    rules = json.loads(path.read_text())
    assert rules == {
        "bos_token_id": 1,
        "eos_token_id": [2, 0],
        "pad_token_id": 0,
        "do_sample": True,
        "temperature": 0.75,
        "top_p": 0.5,
    }
    path.write_text(json.dumps(rules | {"num_beams": 3, "no_repeat_ngram_size": 5}))
    found = convert_model(tmp_path / "folder", tmp_path / "again.gguf")
    assert found.left_out == ["no_repeat_ngram_size = 5", "num_beams = 3"]
    path.write_text(json.dumps({"do_sample": False, "eos_token_id": [2, 0]}))
    convert_model(tmp_path / "folder", tmp_path / "greedy.gguf")
    greedy = json.loads(qkv.load(tmp_path / "greedy.gguf").files["generation_config.json"])
    assert greedy["do_sample"] is False
    path.write_text(json.dumps({"eos_token_id": [2, 0, 1, 3]}))
    with pytest.raises(ConfigError, match=r"ends with one of the tokens \[2, 0, 1, 3\].*at most 3"):
        convert_model(tmp_path / "folder", tmp_path / "greedy.gguf")


@pytest.mark.parametrize(
    ("factor", "few", "many", "length", "base", "n_pairs"),
    [
        (8.0, 1.0, 4.0, 8192, 500_000.0, 64),  # Llama 3.1
        (32.0, 1.0, 4.0, 8192, 500_000.0, 32),  # Llama 3.2
        (8.0, 1.0, 5.0, 8192, 500_000.0, 64),
        (8.0, 3.0, 7.0, 1000, 10_000.0, 32),
    ],
)
def test_factors_of_rotary_positions(factor, few, many, length, base, n_pairs):
    scaling = TurnsScaling(factor=factor, original_length=length, few_turns=few, many_turns=many)
    factors = factors_of(scaling, base, n_pairs)
    found = find_turns(factors, base)
    assert torch.allclose(factors_of(found, base, n_pairs), factors, rtol=1e-6, atol=0)
    if few == 1:
        assert found == scaling
    factors[n_pairs // 2 - 1] *= 1.001
    assert find_turns(factors, base) is None


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize("scaling", [LLAMA3, YARN, {"rope_type": "linear", "factor": 2.0}])
def test_scaled_rotary_positions(tmp_path, scaling):
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = folders.model("llama", rope_scaling=scaling, **sizes)
    export_gguf(Loaded(model, config={"model_type": "llama"}), tmp_path / "x.gguf")
    assert ("rope_freqs.weight" in GGUFFile(tmp_path / "x.gguf")) == (scaling is LLAMA3)
    again = qkv.load(tmp_path / "x.gguf").model
    assert again.config.rotary_scaling == model.config.rotary_scaling
    ids = torch.tensor([[5, 7, 11, 2]])
    assert torch.equal(again(ids), model(ids))


def test_factors_that_no_scaling_gives(tmp_path):
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = folders.model("llama", rope_scaling=LLAMA3, **sizes)
    path = tmp_path / "x.gguf"
    export_gguf(Loaded(model, config={"model_type": "llama"}), path)
    one = GGUFFile(path).entries["rope_freqs.weight"]
    content = bytearray(path.read_bytes())
    content[one.start : one.end] = np.linspace(1, 3, 16).astype("<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"rope_freqs.weight has \[1.0, .*no rotary scaling of"):
        qkv.load(path)
    assert qkv.load(path, ignore="rope_freqs.weight").model.config.rotary_scaling is None


def refused(tmp_path, match, loaded, error=ConfigError, **options):
    with pytest.raises(error, match=match):
        export_gguf(loaded, tmp_path / "x.gguf", **options)
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(
    ("model_type", "architecture", "changes", "match"),
    [
        ("bert", None, {}, "a BertForMaskedLM|a Bert.* expected one of LlamaForCausalLM, Qwen2For"),
        ("llama", "LlamaForSequenceClassification", {}, "a LlamaForSequenceClassification cannot"),
        ("mistral", None, {"sliding_window": 5}, "no setting for .*window = 5"),
        ("gpt2", None, {"activation_function": "relu"}, "no setting for .*activation = 'relu'"),
        ("llama", None, {"mlp_bias": True}, "no setting for feed_forward_bias = True|missing"),
    ],
)
def test_a_model_that_gguf_cannot_express(tmp_path, model_type, architecture, changes, match):
    model = folders.model(model_type, architecture, **changes)
    refused(tmp_path, match, Loaded(model, config={"model_type": model_type}))


def test_a_tokenizer_that_gguf_cannot_express(tmp_path):
    lines = hard_lines()
    for make, match in (
        (Tokenizer.train_characters, "'WordLevel'.*byte-level BPE"),
        (lambda lines: Tokenizer.train_wordpiece(lines, 2003), "'WordPiece'"),
        (lambda lines: Tokenizer.train_bpe(lines, 307, lowercase=True), "normalizer .*Lowercase"),
    ):
        tokenizer = make(lines)
        model = folders.model("llama", vocab_size=tokenizer.vocab_size)
        refused(tmp_path, match, Loaded(model, tokenizer))


def change(folder, **parts):
    """Change parts of a tokenizer.json; returns the tokenizer."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return Tokenizer.load(folder)


def test_a_splitting_without_a_name(tmp_path):
    Tokenizer.train_bpe(hard_lines(), 307).save(tmp_path / "one")
    model = folders.model("llama", vocab_size=307)
    split = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    end = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    for step, match in (
        (end | {"use_regex": True, "add_prefix_space": True}, "a step of another kind"),
        (
            {"type": "Sequence", "pretokenizers": [split, end | {"use_regex": False}]},
            r"'x\+'",
        ),
        ({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, end]}, "gpt-2, smollm"),
    ):
        refused(tmp_path, match, Loaded(model, change(tmp_path / "one", pre_tokenizer=step)))


def test_numbers_that_do_not_fit(tmp_path):
    model = folders.model("llama")
    with torch.no_grad():
        model.embedding.weight[1, 1] = 1e6
    loaded = Loaded(model, config={"model_type": "llama"})
    match = r"token_embd.weight has numbers that F16 cannot express.*bfloat16 for large"
    refused(tmp_path, match, loaded, DataError, kind="float16")
    refused(tmp_path, "float64 is no type of matrices", loaded, kind="float64")
    export_gguf(loaded, tmp_path / "x.gguf", kind="bfloat16")


def test_what_is_no_gguf_file_stays_as_it_is(tmp_path):
    folders.write(tmp_path / "source", "llama")
    (tmp_path / "text.gguf").write_text("dear diary")
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "nowhere")
    for name in ("text", "empty", "link"):
        with pytest.raises(DataError, match="exists and is no GGUF file, so it is not changed"):
            convert_model(tmp_path / "source", tmp_path / f"{name}.gguf")
    assert (tmp_path / "text.gguf").read_text() == "dear diary"
    with pytest.raises(StorageError, match="cannot be written"):
        convert_model(tmp_path / "source", tmp_path / ("x" * 300 + ".gguf"))
    with pytest.raises(ConfigError, match=r"--dtype q8_0 for a folder.*NAME.gguf may also"):
        convert_model(tmp_path / "source", tmp_path / "new", dtype="q8_0")
    with pytest.raises(ConfigError, match=r"--dtype float64 for a GGUF file; expected one of fl"):
        convert_model(tmp_path / "source", tmp_path / "new.gguf", dtype="float64")
    assert not (tmp_path / "new").exists()
    convert_model(tmp_path / "source", tmp_path / "new.gguf")
    before = (tmp_path / "new.gguf").read_bytes()
    convert_model(tmp_path / "new.gguf", tmp_path / "new.gguf")  # onto itself
    assert (tmp_path / "new.gguf").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def split(tmp_path):
    """Write a model as a whole, and in several parts; returns the path of the first part."""
    write(tmp_path / "single.gguf")
    write(tmp_path / "whole.gguf", split=7)
    return tmp_path / "whole-00001-of-00005.gguf", GGUFFile(tmp_path / "single.gguf")


def test_a_file_in_parts(tmp_path):
    first, single = split(tmp_path)
    file = GGUFFile(first)
    assert file.keys() == single.keys()
    assert len(file) == 3 + 9 * LAYERS
    for name in single:
        assert torch.equal(file[name], single[name]), name
    ids = torch.tensor([[5, 7, 11]])
    whole = qkv.load(tmp_path / "single.gguf").model(ids)
    assert torch.equal(qkv.load(first).model(ids), whole)
    convert_model(first, tmp_path / "again.gguf")
    assert torch.equal(qkv.load(tmp_path / "again.gguf").model(ids), whole)


def test_parts_that_do_not_belong_together(tmp_path):
    first, _ = split(tmp_path)
    third = tmp_path / "whole-00003-of-00005.gguf"
    with pytest.raises(DataError, match=r"00003-of-00005.gguf is one of 5 parts; expected the fir"):
        qkv.load(third)
    shutil.copy(first, tmp_path / "alone.gguf")
    with pytest.raises(DataError, match=r"alone.gguf is one of 5 parts, which are found by their"):
        qkv.load(tmp_path / "alone.gguf")
    third.rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"5 parts, of which whole-00003-of-00005.gguf is missing"):
        qkv.load(first)
    shutil.copy(tmp_path / "whole-00004-of-00005.gguf", third)
    with pytest.raises(DataError, match=r"00003.*split.no = 3 and split.count = 5; expected 2 a"):
        qkv.load(first)
    content = (tmp_path / "away").read_bytes()
    third.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"00003-of-00005.gguf.* truncated"):
        qkv.load(first)
    third.write_bytes(content.replace(b"blk.1.ffn_up", b"blk.0.ffn_up"))
    with pytest.raises(DataError, match=r"00003-of-00005.gguf has the tensor .* of another part"):
        qkv.load(first)
