"""CTranslate2 computes what the model does, and writes the same tokens."""

import sys

import numpy as np
import pytest
import torch
from tests.checkpoints.folders import contents, model, write
from tests.helpers import distance, right_mask

from qkv.checkpoints.ctranslate2 import read_ctranslate2
from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.generation.greedy import greedy
from qkv.inference.optimize import optimize
from qkv.models.lora import add_lora
from qkv.models.lora_layers import LoRAConfig
from qkv.tasks.conversion import convert_model
from qkv.tasks.export_ctranslate2 import export, vocabulary
from qkv.tasks.pretrained import Loaded, load

ctranslate2 = pytest.importorskip("ctranslate2")

BOUND = 1e-5
START, END = 3, 2
DECODING = {"bos_token_id": 1, "eos_token_id": END, "decoder_start_token_id": START}
NO_WINDOW = {"sliding_window": None}
LINEAR = {"rope_scaling": {"rope_type": "linear", "factor": 2.5}}
DECODERS = {
    "gpt2": {},
    "llama": LINEAR,
    "mistral": NO_WINDOW,
    "qwen2": NO_WINDOW | {"use_sliding_window": False},
}
ENCODER_DECODERS = ("marian", "bart", "mbart", "t5", "mt5", "qkv_transformer")
ENCODERS = {"bert": "BertModel", "roberta": "RobertaModel", "distilbert": "DistilBertModel"}


def exported(family, folder, architecture=None, kind=None, **changes):
    """A small model, and the folder of its export."""
    one = model(family, architecture, **changes)
    export(Loaded(one, config={"model_type": family, **DECODING}), folder, kind=kind)
    return one, str(folder)


def tokens(rows):
    return [[str(i) for i in row] for row in rows]


def array(view):
    return torch.from_numpy(np.array(view))


@pytest.mark.parametrize("family", DECODERS)
@torch.no_grad()
def test_a_language_model(family, tmp_path):
    one, folder = exported(family, tmp_path / "new", **DECODERS[family])
    engine = ctranslate2.Generator(folder)
    rows = [[5, 6, 7, 8, 9, 10, 4, 4, 12, 3, 36], [4, 11, 3]]
    logits = array(engine.forward_batch(rows))
    for row, theirs in zip(rows, logits, strict=True):
        assert distance(theirs[: len(row)], one(torch.tensor([row]))[0]) <= BOUND
    prompt = [1, 5, 6]
    found = engine.generate_batch(
        tokens([prompt]), max_length=13, beam_size=1, include_prompt_in_result=False
    )
    source = torch.tensor([prompt[:-1]])
    ours = greedy(one, source, start=prompt[-1], stop=END, max_length=13)[0]
    assert found[0].sequences_ids[0] == [i for i in ours.tolist() if i != END]


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_an_encoder_decoder(family, tmp_path):
    one, folder = exported(family, tmp_path / "new")
    engine = ctranslate2.Translator(folder)
    sources = [[5, 6, 7, 8, 9, 10, 16], [4, 11]]
    targets = [[6, 5, 12], [7, 8, 9, 10, 11]]
    scores = engine.score_batch(tokens(sources), tokens(targets))
    for source, target, found in zip(sources, targets, scores, strict=True):
        logits = one(torch.tensor([source]), torch.tensor([[START, *target]]))
        expected = logits.log_softmax(-1)[0].gather(1, torch.tensor([*target, END])[:, None])
        assert distance(torch.tensor(found.log_probs), expected[:, 0]) <= BOUND


@pytest.mark.parametrize("family", ENCODERS)
@torch.no_grad()
def test_an_encoder(family, tmp_path):
    one, folder = exported(family, tmp_path / "new", ENCODERS[family])
    lengths = [7, 3, 5]
    mask = right_mask(lengths, 7)
    ids = torch.randint(37, (3, 7), generator=torch.Generator().manual_seed(0))
    options, theirs = {}, {}
    if one.config.n_segments > 1:
        options["segments"] = (ids % 3 == 0).long()
        theirs["token_type_ids"] = options["segments"].tolist()
    inputs = (np.int32(ids), np.int32(lengths))
    views = [ctranslate2.StorageView.from_array(one) for one in inputs]
    found = ctranslate2.Encoder(folder).forward_batch(*views, **theirs)
    states = one(ids, token_mask=mask, **options)
    assert distance(array(found.last_hidden_state)[mask], states[mask]) <= BOUND
    if one.pooler is not None:
        assert distance(array(found.pooler_output), one.pool(states, mask)) <= BOUND


@pytest.mark.parametrize(("kind", "bound"), [("float16", 2e-3), ("bfloat16", 2e-2), ("int8", 3e-2)])
@torch.no_grad()
def test_fewer_bits(kind, bound, tmp_path):
    one, folder = exported("gpt2", tmp_path / "new", kind=kind)
    unchanged, _ = exported("gpt2", tmp_path / "whole")
    for mine, other in zip(one.parameters(), unchanged.parameters(), strict=True):
        assert torch.equal(mine, other)
    sizes = [(tmp_path / name / "model.bin").stat().st_size for name in ("new", "whole")]
    assert sizes[0] < 0.7 * sizes[1]
    logits = array(ctranslate2.Generator(folder, compute_type="float32").forward_batch([[5, 6, 7]]))
    assert 1e-5 < distance(logits[0], one(torch.tensor([[5, 6, 7]]))[0]) <= bound


def test_a_shipped_model_answers_the_same(tmp_path):
    files = convert_model("dates", tmp_path / "new", format="ctranslate2").files
    names = {"config.json", "model.bin", "shared_vocabulary.json", "tokenizer.json"}
    assert {path.name for path in files} >= names
    loaded = load("dates")
    tokenizer, engine = loaded.tokenizer, ctranslate2.Translator(str(tmp_path / "new"))
    for text in ("9 May 1973", "Tue 03/08/2021", "on 31 December 1999"):
        ids = tokenizer.add_special_tokens(tokenizer.encode(text)).ids
        found = engine.translate_batch([[tokenizer.name_of(i) for i in ids]], beam_size=1)[0]
        theirs = [tokenizer.id_of(name) for name in found.hypotheses[0]]
        ours = greedy(
            loaded.model,
            torch.tensor([ids]),
            start=tokenizer.start,
            stop=tokenizer.stop,
            max_length=29,
        )[0]
        assert theirs == [i for i in ours.tolist() if i != tokenizer.stop]


def test_what_the_format_does_not_have_is_listed(tmp_path):
    more = {"eos_token_id": [END, 7], "num_beams": 4, "bad_words_ids": [[5]], "max_length": 19}
    config = {"model_type": "marian", **DECODING, **more}
    assert export(Loaded(model("marian"), config=config), tmp_path / "new") == [
        "positions from 4,096 on",
        "eos_token_id = 7",
        "bad_words_ids = [[5]]",
        "max_length = 19",
        "num_beams = 4",
    ]


@pytest.mark.parametrize(
    ("family", "architecture", "changes", "message"),
    [
        ("mistral", None, {}, "a model with SlidingWindowAttention cannot .* MultiHeadAttention"),
        ("llama", None, {}, "a model with TurnsScaling cannot .*; expected LinearScaling in its"),
        ("qkv_rnn", None, {}, "a RNNSeq2Seq cannot be written for CTranslate2; expected a Transf"),
        ("qkv_hybrid", None, {}, "a Hybrid cannot be written"),
        ("vit", None, {}, "a ViT cannot be written"),
        ("bert", "BertForSequenceClassification", {}, "a SequenceClassifier cannot be written"),
        ("gpt2", "GPT2Model", {}, "a GPT without its output layer cannot be written"),
    ],
)
def test_a_model_that_the_engine_does_not_know(family, architecture, changes, message, tmp_path):
    write(tmp_path / "source", family, architecture)
    with pytest.raises(ConfigError, match=message):
        convert_model(tmp_path / "source", tmp_path / "new", format="ctranslate2")
    assert not (tmp_path / "new").exists()


def test_a_model_that_is_not_made_of_plain_weights(tmp_path):
    with pytest.raises(ConfigError, match="an optimized model cannot be written as CTranslate2"):
        export(Loaded(optimize(model("gpt2"), "int8")), tmp_path / "new")
    with_lora = model("gpt2")
    add_lora(with_lora, LoRAConfig(rank=3))
    with pytest.raises(ConfigError, match=r"LoRA on .*merge_lora"):
        export(Loaded(with_lora), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_other_files_are_never_replaced(tmp_path):
    exported("gpt2", tmp_path / "new")
    first = contents(tmp_path)
    exported("gpt2", tmp_path / "new", seed=1)
    assert contents(tmp_path) != first
    (tmp_path / "new" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"has mine.txt beside an export, so it is not changed"):
        exported("gpt2", tmp_path / "new")
    assert contents(tmp_path) == before
    write(tmp_path / "checkpoint")
    with pytest.raises(DataError, match=r"has files, but no model.bin, so it is not changed"):
        exported("gpt2", tmp_path / "checkpoint")


def test_an_old_reader_says_that_it_is_one(tmp_path):
    exported("qkv_transformer", tmp_path / "new")
    with pytest.raises(DataError, match="has version 6; expected CTranslate2's 2"):
        read_ctranslate2(tmp_path / "new" / "model.bin")


def test_ids_without_a_token_are_named_by_their_numbers():
    tokenizer = load("dates").tokenizer
    size = tokenizer.vocab_size
    names = vocabulary(tokenizer, size + 2)
    assert names[-2:] == [f"<{size}>", f"<{size + 1}>"]
    assert [tokenizer.id_of(name) for name in names[:size]] == list(range(size))
    assert vocabulary(None, 3) == ["0", "1", "2"]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2.specs", None)
    with pytest.raises(MissingDependencyError, match=r'ctranslate2, which .*pip install "qkv\[exp'):
        export(Loaded(model("gpt2")), tmp_path / "new")
    assert not list(tmp_path.iterdir())
