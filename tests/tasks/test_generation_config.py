"""What generation_config.json may say; what it does is held against transformers in parity."""

import json
import re
from dataclasses import replace

import pytest
import torch
from tests.checkpoints.folders import write
from tests.tasks.translators import make_translator

from qkv.errors import ConfigError, DataError, LengthError
from qkv.generation.config import APPLIED, OF_DRAWING, REFUSED
from qkv.generation.decoding import Decoding, Limits
from qkv.generation.ranking import Beam
from qkv.tasks.decoding import FILE, read_decoding
from qkv.tasks.pretrained import load
from qkv.tasks.translation import Translator


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "gpt2", architecture="GPT2LMHeadModel")
    return tmp_path


def reading(folder, said):
    content = said if isinstance(said, str) else json.dumps(said)
    (folder / FILE).write_text(content)
    return read_decoding(load(folder))


def raises(error, message):
    return pytest.raises(error, match=re.escape(message))


def test_nothing_said_is_no_rule(folder):
    assert reading(folder, {}) == replace(Decoding(), stops=read_decoding(load(folder)).stops)
    assert reading(folder, dict.fromkeys(APPLIED)) == reading(folder, {})


@pytest.mark.parametrize("name", APPLIED)
def test_a_wrong_type_is_refused_by_name(folder, name):
    wrong = [{"a": 1}, [[1.5]], [{}], [[]]]
    if name != "stop_strings":
        wrong += ["7"]
    if name not in ("do_sample", "renormalize_logits", "early_stopping"):
        wrong += [True]
    for value in wrong:
        with raises(ConfigError, f"{FILE}: {name} is {value!r}; expected ") as raised:
            reading(folder, {name: value})
        assert "expected a" in str(raised.value) or "expected true" in str(raised.value)


@pytest.mark.parametrize("name", [*REFUSED, "forced_decoder_ids", "a_new_rule"])
def test_what_is_not_implemented_is_refused_by_name(folder, name):
    for value in (7, 0.3, [[1, 2]], "word", {"a": 1}):
        message = f"{FILE}: {name} = {value!r} is not implemented; expected it to be left out"
        with raises(ConfigError, message):
            reading(folder, {name: value})
    for value in (None, *REFUSED.get(name, (False, []))):
        assert reading(folder, {name: value}) == reading(folder, {})


@pytest.mark.parametrize("name", OF_DRAWING)
def test_rules_of_drawing_count_where_tokens_are_drawn(folder, name):
    assert reading(folder, {name: 0.5}) == reading(folder, {})
    with raises(ConfigError, f"{name} = 0.5 is not implemented"):
        reading(folder, {name: 0.5, "do_sample": True})
    for value in OF_DRAWING[name]:
        assert reading(folder, {name: value, "do_sample": True}).draws


def test_what_changes_no_token_is_passed_over(folder):
    said = {"_from_model_config": True, "user_token_id": 99, "cache_implementation": "static"}
    assert reading(folder, said | {"use_cache": False, "new_switch": False}) == reading(folder, {})
    with raises(ConfigError, "cache_implementation = 'quantized' is not implemented"):
        reading(folder, {"cache_implementation": "quantized"})


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"bad_words_ids": [[3], [4, 10_000]]}, "bad_words_ids has the id 10000; expected ids of"),
        ({"forced_eos_token_id": -1}, "forced_eos_token_id has the id -1; expected ids of"),
        ({"temperature": -1.0, "do_sample": True}, "temperature is -1.0, expected at least 0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5, expected a share"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, expected above 0"),
        ({"num_beams": 0}, "num_beams is 0; expected a whole number from 1 on"),
    ],
)
def test_numbers_out_of_range(folder, said, message):
    with raises(ConfigError, message):
        reading(folder, said)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "is a JSON list; expected an object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_what_is_no_object(folder, content, message):
    with raises(DataError, f"{FILE} {message}"):
        reading(folder, content)


def test_lengths_by_hand():
    said = Decoding(max_length=9, min_length=5, forced_first=3)
    assert said.limits(1, usual=20) == Limits(4, 8, True)
    assert said.limits(6, usual=20) == Limits(0, 3, False)
    assert said.limits(6, usual=20, most=11) == Limits(0, 11, False)
    assert replace(said, max_new_tokens=2, min_new_tokens=1).limits(7, usual=20)[:2] == (1, 2)
    assert Decoding().limits(7, usual=20) == Limits(0, 20, False)
    with raises(LengthError, "begins with 9 tokens, but the model's files say max_length = 9"):
        said.limits(9, usual=20)


def write_translator(folder, **said):
    make_translator("marian").save(folder)
    (folder / FILE).write_text(json.dumps(said))
    return folder


def test_a_translator_follows_its_files(tmp_path):
    plain = Translator.load(write_translator(tmp_path, max_length=9))
    assert plain.max_length == 8
    free = plain("abc")
    said = {"max_length": 9, "min_length": 9, "no_repeat_ngram_size": 1}
    ruled = Translator.load(write_translator(tmp_path, **said))
    tokens = ruled.target.encode(ruled("abc").translation)
    assert len(tokens) == len(set(tokens)) > 0
    assert ruled("abc") != free
    assert Translator.load(tmp_path, max_length=3).max_length == 3


def test_a_second_end_ends_a_translation_and_is_no_part_of_it(tmp_path):
    letters = {"max_length": 5, "suppress_tokens": [0, 1, 2, 3], "no_repeat_ngram_size": 1}
    whole = Translator.load(write_translator(tmp_path, **letters))("abc").translation
    assert len(whole) == 4
    end = make_translator("marian").target.id_of(whole[2])
    found = Translator.load(write_translator(tmp_path, **letters, eos_token_id=[2, end]))("abc")
    assert found.translation == whole[:2]
    assert found.note == ""


def test_what_a_translator_cannot_do_is_refused(tmp_path):
    write_translator(tmp_path, do_sample=True, top_k=5, num_beams=2)
    with raises(ConfigError, "do_sample = true, but this task does not sample; expected false, or"):
        Translator.load(tmp_path)
    greedy, beam = (Translator.load(tmp_path, beam=one) for one in (1, Beam(size=1)))
    assert greedy("abc").translation == beam("abc").translation
    write_translator(tmp_path, stop_strings=["ab"])
    with raises(ConfigError, "stop_strings = ['ab']; expected none: beam search only supports"):
        Translator.load(tmp_path)


def test_a_rule_about_the_source_is_about_each_text_alone(tmp_path):
    """No token of its own source comes back, whatever else is in the batch."""
    write_translator(tmp_path, max_length=9, encoder_no_repeat_ngram_size=1, eos_token_id=2)
    for beam in (1, 3):
        translator = Translator.load(tmp_path, beam=beam)
        with torch.no_grad():
            translator.model.head.bias[:5] = -1e4  # letters alone
        for text, found in zip(["aab", "c", "b."], translator(["aab", "c", "b."]), strict=True):
            assert found.translation
            assert not set(text) & set(found.translation)
