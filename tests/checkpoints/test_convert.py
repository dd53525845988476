"""Published binary formats: real trained models give their published answers, broken files none."""

import copy
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from tests.helpers import assert_close, problem, randomized, transformer

from qkv.blocks.positions import Rotary
from qkv.checkpoints.convert import convert
from qkv.checkpoints.ctranslate2 import read_ctranslate2
from qkv.checkpoints.llama2c import read_llama2c, read_llama2c_pieces
from qkv.errors import DataError
from qkv.generation.greedy import greedy
from qkv.models.llama import Llama, LlamaConfig

START, STOP = 1, 2


@pytest.fixture
def pretrained():
    """The folder of trained models; without it the test is skipped."""
    folder = os.environ.get("QKV_DATA")
    if not folder:
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    return Path(folder, "pretrained")


@pytest.mark.parametrize("name", ["stories260K", "aidreams260K"])
def test_trained_llamas_say_what_was_published(name, pretrained):
    folder = pretrained / name
    expected = json.loads((folder / "expected_greedy.json").read_text())
    model, pieces = convert(folder / f"{name}.bin"), read_llama2c_pieces(folder / "tok512.bin")
    n = len(expected["token_ids"])
    assert n == {"stories260K": 200, "aidreams260K": 120}[name]
    nothing = torch.empty(1, 0, dtype=torch.int64)
    ids = greedy(model, nothing, start=START, stop=STOP, max_length=n)[0].tolist()
    assert ids == expected["token_ids"]
    assert b"".join(pieces[i] for i in ids).decode().removeprefix(" ") == expected["text"]


def test_a_trained_transliterator_writes_all_its_references(pretrained):
    folder = pretrained / "aren-transliteration"
    model = convert(folder).double()
    letters = (folder / "source_vocabulary.txt").read_text(encoding="utf-8").splitlines()
    latin = (folder / "target_vocabulary.txt").read_text(encoding="utf-8").splitlines()
    cases = json.loads((folder / "reference_outputs.json").read_text(encoding="utf-8"))["cases"]
    cases = [case for case in cases if case["model"] == folder.name]
    assert len(cases) == 8
    words = [torch.tensor([letters.index(letter) for letter in c["src"].split()]) for c in cases]
    source = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)
    mask = source != 0  # <blank>
    answers = greedy(model, source, token_mask=mask, start=START, stop=STOP, max_length=40)
    target_input = torch.cat((torch.full_like(answers[:, :1], START), answers[:, :-1]), 1)
    scores = model(source, target_input, source_mask=mask).log_softmax(-1)
    scores = scores.gather(-1, answers[..., None])[..., 0]
    for answer, row, case in zip(answers.tolist(), scores, cases, strict=True):
        n = answer.index(STOP)
        assert " ".join(latin[i] for i in answer[:n]) == case["greedy"]
        assert row[: n + 1].mean().item() == pytest.approx(case["greedy_score"], abs=1e-4)


def test_a_quantized_model_is_refused(pretrained):
    with pytest.raises(DataError, match=r"numbers of \d bytes, expected 4 .* was quantized"):
        convert(pretrained / "aren-transliteration-i8")


SIZES = (
    24,
    29,
    3,
    6,
    2,
    19,
    11,
)  # width, feed-forward, layers, heads, key heads, vocabulary, length


def llama(tied=True):
    config = LlamaConfig(
        d_model=24,
        d_ff=29,
        n_layers=3,
        n_heads=6,
        n_kv_heads=2,
        vocab_size=19,
        n_positions=11,
        tied_output=tied,
    )
    return randomized(Llama(config), torch.float32)


def llama2c(model):
    """The bytes of a model as llama2.c writes it, its rotary pairs as they are."""
    blocks = model.stack.blocks
    sizes = list(SIZES)
    sizes[5] *= 1 if model.config.tied_output else -1
    parts = [model.embedding.weight]
    for attribute in (
        "self_attention_residual.norm",
        "self_attention.query",
        "self_attention.key",
        "self_attention.value",
        "self_attention.output",
        "feed_forward_residual.norm",
        "feed_forward.gate",
        "feed_forward.down",
        "feed_forward.up",
    ):
        parts += [block.get_submodule(attribute).weight for block in blocks]
    parts += [model.stack.norm.weight, torch.randn(2, 11, 2)]
    if not model.config.tied_output:
        parts.append(model.head.weight)
    numbers = torch.cat([part.detach().flatten() for part in parts])
    return struct.pack("<7i", *sizes) + numbers.numpy().tobytes()


@pytest.mark.parametrize("tied", [True, False])
def test_llama2c_turns_neighbours_and_we_halves(tied, tmp_path):
    theirs = llama(tied)
    (tmp_path / "model.bin").write_bytes(llama2c(theirs))
    for block in theirs.stack.blocks:
        block.self_attention.rotary = Rotary(4, layout="interleaved")
    ours = convert(tmp_path / "model.bin")
    assert ours.config == theirs.config
    assert not ours.training
    tokens = torch.randint(19, (3, 11))
    assert_close(copy.deepcopy(ours).double()(tokens), copy.deepcopy(theirs).double()(tokens))
    # Whole, and in its own memory: the file may go.
    (tmp_path / "model.bin").write_bytes(b"")
    assert_close(ours.double()(tokens), theirs.double()(tokens))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:20], "too short for the header"),
        (lambda data: data[:-4], r"has (\d+) numbers .* expected \d+ .* is truncated"),
        (lambda data: data + bytes(8), "truncated, or has another format"),
        (lambda data: struct.pack("<i", 0x616B3432) + data[4:], "version 0 of llama2.c's format"),
        (lambda data: struct.pack("<4i", 24, 29, 3, 7) + data[16:], "not with model sizes"),
        (lambda data: struct.pack("<5i", 24, 29, 3, 6, 0) + data[20:], "not with model sizes"),
        (lambda data: struct.pack("<5i", 24, 29, 3, 6, 4) + data[20:], "not with model sizes"),
    ],
)
def test_what_is_no_llama2c_is_refused(change, message, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(change(llama2c(llama())))
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        read_llama2c(path)


def test_pieces(tmp_path):
    path = tmp_path / "pieces.bin"
    pieces = [b"<unk>", b"<0x0A>", "ß".encode(), b" a<0x0B>"]
    data = struct.pack("<i", 8)
    data += b"".join(struct.pack("<fi", -1.5, len(piece)) + piece for piece in pieces)
    path.write_bytes(data)
    assert read_llama2c_pieces(path) == [b"<unk>", b"\n", "ß".encode(), b" a<0x0B>"]
    path.write_bytes(data[:-1])
    with pytest.raises(DataError, match=f"{path} ends after .* truncated"):
        read_llama2c_pieces(path)


def opennmt():
    """A tiny Transformer of the kind that is read, 8 heads wide."""
    return transformer(
        torch.float32,
        d_model=24,
        n_heads=8,
        dropout=0.1,
        n_encoder_layers=3,
        norm_first=True,
        output_bias=True,
        sinusoid_layout="halves",
        sinusoid_divisor=11.0,
        first_position=1,
    )


def ctranslate2_tensors(model):
    """A model's tensors by their names there: stacked projections, gamma and beta."""
    ours = {name: parameter.detach() for name, parameter in model.named_parameters()}
    theirs = {
        "encoder/embeddings/weight": ours["source_embedding.weight"],
        "decoder/embeddings/weight": ours["target_embedding.weight"],
    }

    def linear(name, *modules):
        for part in ("weight", "bias"):
            theirs[f"{name}/{part}"] = torch.cat([ours[f"{module}.{part}"] for module in modules])

    def norm(name, module):
        theirs[f"{name}/gamma"] = ours[f"{module}.weight"]
        theirs[f"{name}/beta"] = ours[f"{module}.bias"]

    linear("decoder/projection", "head")
    for stack in ("encoder", "decoder"):
        norm(f"{stack}/layer_norm", f"{stack}.norm")
        for i in range(len(model.get_submodule(stack).blocks)):
            layer, block = f"{stack}/layer_{i}", f"{stack}.blocks.{i}"
            own, cross = f"{block}.self_attention", f"{block}.cross_attention"
            norm(f"{layer}/self_attention/layer_norm", f"{own}_residual.norm")
            linear(f"{layer}/self_attention/linear_0", f"{own}.query", f"{own}.key", f"{own}.value")
            linear(f"{layer}/self_attention/linear_1", f"{own}.output")
            if stack == "decoder":
                norm(f"{layer}/attention/layer_norm", f"{cross}_residual.norm")
                linear(f"{layer}/attention/linear_0", f"{cross}.query")
                linear(f"{layer}/attention/linear_1", f"{cross}.key", f"{cross}.value")
                linear(f"{layer}/attention/linear_2", f"{cross}.output")
            norm(f"{layer}/ffn/layer_norm", f"{block}.feed_forward_residual.norm")
            linear(f"{layer}/ffn/linear_0", f"{block}.feed_forward.up")
            linear(f"{layer}/ffn/linear_1", f"{block}.feed_forward.down")
    return theirs


def name_bytes(name):
    return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"


def ctranslate2(tensors, kind="TransformerBase", version=2):
    data = struct.pack("<i", version) + name_bytes(kind) + struct.pack("<II", 2, len(tensors))
    for name, tensor in tensors.items():
        shape = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        numbers = struct.pack("<BI", tensor.element_size(), tensor.numel())
        data += name_bytes(name) + shape + numbers + tensor.numpy().tobytes()
    return data


def test_ctranslate2_is_our_transformer_under_other_names(tmp_path):
    theirs = opennmt()
    (tmp_path / "model.bin").write_bytes(ctranslate2(ctranslate2_tensors(theirs)))
    ours = convert(tmp_path)
    assert ours.config == theirs.config
    assert not ours.training
    source, target, mask = problem()
    expected = theirs(source, target, source_mask=mask)
    assert torch.equal(ours(source, target, source_mask=mask), expected)


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("encoder/layer_norm/gamma"), "'TransformerBase', expected .* only pre-norm"),
        (without("decoder/projection/bias"), "decoder/projection/bias in .* is missing"),
        (without("decoder/layer_1/attention/linear_1/weight"), "linear_1/weight in .* is missing"),
        (
            lambda tensors: tensors | {"encoder/position_encodings/encodings": torch.ones(3, 24)},
            "encoder/position_encodings/encodings in",
        ),
        (
            lambda tensors: tensors | {"decoder/projection/bias": torch.ones(5)},
            r"decoder/projection/bias in .* shape \(5,\)",
        ),
        (
            lambda tensors: tensors | {"decoder/projection/bias": torch.ones(19).half()},
            "decoder/projection/bias in .* numbers of 2 bytes, expected 4",
        ),
    ],
)
def test_tensors_of_another_model_are_refused(change, message, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(ctranslate2(change(ctranslate2_tensors(opennmt()))))
    with pytest.raises(DataError, match=message) as error:
        read_ctranslate2(path)
    assert str(path) in str(error.value)


def test_other_versions_and_kinds_are_refused(tmp_path):
    path, tensors = tmp_path / "model.bin", ctranslate2_tensors(opennmt())
    path.write_bytes(ctranslate2(tensors, version=6))
    with pytest.raises(DataError, match=f"{path} has version 6; expected CTranslate2's 2"):
        read_ctranslate2(path)
    path.write_bytes(ctranslate2(tensors, kind="WhisperSpec"))
    with pytest.raises(DataError, match="contains a 'WhisperSpec', expected one of Transformer"):
        read_ctranslate2(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path, data = tmp_path / "model.bin", ctranslate2(ctranslate2_tensors(opennmt()))
    for end in (0, 3, 5, 12, 30, 60, 5000, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=f"{path} ends after {end} bytes"):
            read_ctranslate2(path)
