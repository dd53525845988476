"""generation_config.json: each field does what it does in transformers' `generate`."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import transformers
from tests.parity.published import through_a_file
from tests.parity.reference import in_float64
from tests.parity.test_decoding import FAMILIES, PAD, START, VOCAB

from qkv.generation.answer import Token
from qkv.generation.beam import beam_search
from qkv.generation.config import APPLIED, KNOWN
from qkv.generation.continuation import Continuation
from qkv.generation.decoding import Decoding
from qkv.generation.processors import process
from qkv.generation.stepping import read
from qkv.tasks.decoding import FILE, read_decoding
from qkv.tasks.pretrained import Loaded, load
from qkv.tasks.seq2seq import Seq2SeqDecoder

BOTH = {"pad_token_id": PAD, "decoder_start_token_id": START, "max_length": 14}
CAUSAL = ("gpt2", "llama")
LENGTHS = (1, 4, 7)
every_family = pytest.mark.parametrize("family", list(FAMILIES))


@cache
def built(family):
    """Their model, its files as ours read them, and its inputs; both in float64."""
    torch.manual_seed(0)
    theirs = FAMILIES[family]()
    with TemporaryDirectory() as folder:
        through_a_file(theirs, Path(folder, "theirs"))
        ours = load(Path(folder, "theirs"))
    ours.model.double()
    torch.manual_seed(1)
    return in_float64(theirs), ours, [torch.randint(4, VOCAB, (n,)).tolist() for n in LENGTHS]


def saying(loaded: Loaded, said) -> Loaded:
    files = {**loaded.files, FILE: json.dumps(said).encode()}
    return replace(loaded, origin=replace(loaded.origin, files=files))


def they_write(family, said, folder):
    """What theirs write by the file, each text alone."""
    theirs, _, sources = built(family)
    (folder / FILE).write_text(json.dumps(said))
    theirs.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    answers = []
    for ids in sources:
        skipped = len(ids) if family in CAUSAL else 1
        given = torch.tensor([ids])
        row = theirs.generate(given, attention_mask=torch.ones_like(given))[0, skipped:].tolist()
        answers.append(row)
    return answers


def we_write(family, said):
    _, loaded, sources = built(family)
    loaded = saying(loaded, said)
    decoding = read_decoding(loaded)
    if family not in CAUSAL:
        search = Seq2SeqDecoder(
            pad=PAD,
            start=decoding.start,
            stops=decoding.stops or (-1,),
            max_length=decoding.limits(1, usual=19).most,
            beam=decoding.beam,
            decoding=decoding,
        )
        return [best.tokens for best, *_ in search(loaded.model, sources, rows=64)]
    return [tokens_of(loaded, decoding, ids) for ids in sources]


def tokens_of(loaded, decoding: Decoding, ids):
    stops, limits = decoding.stops or (-1,), decoding.limits(len(ids), usual=19)
    if decoding.beam.size > 1:
        [[best]] = beam_search(
            loaded.model,
            torch.empty(1, 0, dtype=torch.long),
            start=[ids],
            stop=stops,
            max_length=limits.most,
            beam=decoding.beam,
            processors=decoding.processors(
                limits, begun=len(ids), source=ids, sampling=decoding.searched()
            ),
        )
        return best.tokens
    continuation = Continuation(loaded.model, 41, stops, decoding.sampling, decoding)
    tokens: list[Token] = list(continuation.tokens(ids, limits, 0))
    if not decoding.reads_source:
        assert continuation.answers([ids], limits, [0]) == [tokens]
    return [token.id for token in tokens]


@cache
def plain(family):
    """What is said where nothing is said twice: tokens that rules may be about."""
    said = {**BOTH, "no_repeat_ngram_size": 1, "eos_token_id": None}
    with TemporaryDirectory() as folder:
        return they_write(family, said, Path(folder))


def stops_of(family):
    rows = plain(family)
    return [rows[0][4], rows[1][6]]


CASES = {  # fields, some of them made of what a family says without them
    "max_length": lambda rows: {"max_length": 11},
    "max_new_tokens": lambda rows: {"max_new_tokens": 5, "max_length": 9},
    "min_length": lambda rows: {"min_length": 10},
    "min_new_tokens": lambda rows: {"min_new_tokens": 6, "min_length": 2},
    "eos_token_id": lambda rows: {"eos_token_id": [rows[0][1], rows[1][2], rows[2][0]]},
    "repetition_penalty": lambda rows: {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": lambda rows: {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": lambda rows: {"encoder_no_repeat_ngram_size": 1},
    "encoder_repetition_penalty": lambda rows: {"encoder_repetition_penalty": 4.0},
    "bad_words_ids": lambda rows: {
        "bad_words_ids": [rows[0][:1], rows[1][:2], rows[2][:3], rows[2][1:4], [rows[0][4]]]
    },
    "suppress_tokens": lambda rows: {"suppress_tokens": [row[0] for row in rows]},
    "begin_suppress_tokens": lambda rows: {"begin_suppress_tokens": [row[0] for row in rows]},
    "begin_suppress_tokens after a forced one": lambda rows: {
        "begin_suppress_tokens": [*range(4, 20)],
        "forced_bos_token_id": 9,
    },
    "forced_bos_token_id": lambda rows: {"forced_bos_token_id": 9},
    "forced_eos_token_id": lambda rows: {"forced_eos_token_id": 5, "min_length": 14},
    "renormalize_logits": lambda rows: {
        "renormalize_logits": True,
        "suppress_tokens": [row[0] for row in rows],
    },
    "length_penalty": lambda rows: {"length_penalty": 2.0},
    "all": lambda rows: {
        "min_length": 5,
        "max_new_tokens": 8,
        "repetition_penalty": 0.9,
        "no_repeat_ngram_size": 3,
        "encoder_no_repeat_ngram_size": 2,
        "encoder_repetition_penalty": 1.5,
        "bad_words_ids": [rows[0][:1], rows[1][:2]],
        "suppress_tokens": [rows[1][1]],
        "begin_suppress_tokens": [rows[2][0]],
        "forced_eos_token_id": 5,
        "forced_bos_token_id": 11,
        "renormalize_logits": True,
    },
}
BEAMS = {1: {}, 4: {"num_beams": 4, "early_stopping": "never"}}
FAST = {3: {"num_beams": 3, "early_stopping": True}}


def usual(family, size):
    return {**BOTH, "eos_token_id": stops_of(family), **BEAMS[size]}


@cache
def usually(family, size):
    """What they write without more fields."""
    with TemporaryDirectory() as folder:
        return they_write(family, usual(family, size), Path(folder))


@pytest.mark.parametrize("size", BEAMS)
@pytest.mark.parametrize("case", CASES)
def test_each_field_is_applied_as_theirs(case, size, tmp_path):
    changed = 0
    for family in FAMILIES:
        said = usual(family, size) | CASES[case](plain(family))
        expected = they_write(family, said, tmp_path)
        assert we_write(family, said) == expected, family
        changed += expected != usually(family, size)
    # A length penalty ranks beams; forced ends and what is left is ranked may change no winner.
    assert changed or (case, size) == ("length_penalty", 1)


@every_family
def test_one_of_several_forced_ends(family, tmp_path):
    """Greedily: in a beam they are equally good."""
    said = {**usual(family, 1), "forced_eos_token_id": [7, 5], "min_length": 14}
    expected = they_write(family, said, tmp_path)
    assert we_write(family, said) == expected
    assert {row[-1] for row in expected} == {5}


@every_family
def test_beams_that_end_early(family, tmp_path):
    for length_penalty in (0.0, 1.0):
        said = {**BOTH, **FAST[3], "eos_token_id": stops_of(family)}
        said["length_penalty"] = length_penalty
        assert we_write(family, said) == they_write(family, said, tmp_path)


DRAWN = {
    "nothing more": {},
    "a temperature": {"temperature": 0.6, "top_k": 0},
    "top-k": {"top_k": 5},
    "top-p": {"top_p": 0.7, "temperature": 1.3, "top_k": 0},
    "min-p": {"min_p": 0.2, "top_k": 0},
    "all": {"temperature": 0.8, "top_k": 9, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.2},
}


@every_family
@pytest.mark.parametrize("case", DRAWN)
def test_drawing_has_their_distribution(family, case, tmp_path):
    theirs, loaded, sources = built(family)
    said = {**BOTH, **DRAWN[case], "do_sample": True, "eos_token_id": [5]}
    (tmp_path / FILE).write_text(json.dumps(said))
    theirs.generation_config = transformers.GenerationConfig.from_pretrained(tmp_path)
    decoding, ids = read_decoding(saying(loaded, said)), sources[2]
    assert decoding.draws
    given = torch.tensor([ids])
    output = theirs.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=1,
        max_length=None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    begun = torch.tensor([ids if family in CAUSAL else [START]])
    source = given[:, :0] if family in CAUSAL else given
    with torch.inference_mode():
        logits = read(loaded.model, begun, loaded.model.start(source, None))
        limits = decoding.limits(begun.shape[1], usual=3)
        found = process(decoding.processors(limits, begun=begun.shape[1]), begun, logits)
    torch.testing.assert_close(found, output.scores[0], rtol=1e-11, atol=1e-11)


def test_every_field_of_theirs_is_applied_refused_or_harmless():
    theirs = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    assert theirs - KNOWN == set()
    applied = {name for case in CASES.values() for name in case(plain("gpt2"))}
    applied |= {name for said in DRAWN.values() for name in said}
    beams = {name for said in (*BEAMS.values(), *FAST.values()) for name in said}
    ours = {"output_repetition_penalty", "output_no_repeat_ngram_size"}  # without the prompt
    elsewhere = {"bos_token_id", "do_sample", "stop_strings"} | ours
    assert set(APPLIED) == (applied | beams | set(BOTH) | elsewhere) - {"pad_token_id"}


@pytest.mark.parametrize("has_file", [True, False])
def test_the_reading_order_is_theirs(has_file, tmp_path):
    """With generation_config.json its fields alone count; without it those of config.json."""
    theirs, _, _ = built("bart")
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"num_beams": 3, "max_length": 9, "no_repeat_ngram_size": 2, "eos_token_id": 6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / FILE).unlink()
    if has_file:
        said = {"decoder_start_token_id": START, "max_length": 11, "eos_token_id": [6, 5]}
        (tmp_path / FILE).write_text(json.dumps(said))
    again = type(theirs).from_pretrained(tmp_path).generation_config
    decoding = read_decoding(load(tmp_path))
    assert decoding.max_length == again.max_length == (11 if has_file else 9)
    assert decoding.beam.size == (again.num_beams or 1) == (1 if has_file else 3)
    ngram = decoding.sampling.no_repeat_ngram
    assert (ngram or 0) == (again.no_repeat_ngram_size or 0) == (0 if has_file else 2)
    eos = again.eos_token_id
    assert list(decoding.stops) == (eos if isinstance(eos, list) else [eos])
    assert decoding.start == again.decoder_start_token_id
    assert again.forced_eos_token_id is None
    assert decoding.forced_last == ()
