"""Names and numbers that a translator copies: the choice of a candidate, and a trained one."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers import unchecked

from qkv.data.copying import NAMES, NUMBERS, STAND_INS, Copying
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.generation.answer import Answer
from qkv.generation.ranking import Beam
from qkv.tasks.sources import Part, choose, note_on, read_source
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.train import train
from qkv.tasks.translation import TASK, TranslationRecipe, Translator
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.settings import Training

N, M = NAMES[0], NUMBERS[0]
COPYING = Copying("en", "de", frozenset(["call", "now", "the", "train", "leaves", "at"]))
PART = Part("call Oksana at 24", [], f"call {N} at {M}", {N: "Oksana", M: "24"})


def answers(*scores, ended=True):
    return [
        Answer(tokens=[1, 2, 3], logprobs=[score], score=score, ended=ended) for score in scores
    ]


def test_the_best_candidate_that_keeps_all_stand_ins_is_chosen():
    texts = [f"ruf {N} an", f"ruf {N} um {M} an", f"ruf {M} {N} an"]
    found = choose(PART, answers(-1, -2, -3), texts, COPYING)
    assert found.texts == ["ruf Oksana um 24 an", "ruf 24 Oksana an", "ruf Oksana an"]
    assert found.scores == [-2, -3, -1]
    assert found.lost == ()
    assert found.complete


def test_stand_ins_that_a_model_makes_up_never_reach_the_text():
    found = choose(Part("call", [], "call"), answers(-1), [f"ruf {N}an"], COPYING)
    assert (found.texts, found.complete) == (["ruf an"], False)


def test_what_no_candidate_keeps_is_reported():
    found = choose(PART, answers(-1, -2, ended=False), [f"ruf {N} an", "ruf an"], COPYING)
    assert found.texts == ["ruf Oksana an", "ruf an"]
    assert found.lost == ("24",)
    source = read_source("call", Tokenizer.train_bpe(["call"], 260), None, None)
    expected = "truncated after 3 tokens (max_length), before its end; left out or changed: 24"
    assert note_on(source, [found]) == expected


def test_without_copying_a_text_is_as_few_parts_as_possible():
    tokenizer = Tokenizer.train_bpe(["call now."], 260)
    text = "call Oksana now. the train leaves."
    whole = read_source(text, tokenizer, None, None)
    assert [tokenizer.decode(part.tokens) for part in whole.parts] == [text]
    parts = read_source(text, tokenizer, None, COPYING).parts
    assert [part.text for part in parts] == ["call Oksana now.", "the train leaves."]
    assert [part.values for part in parts] == [{N: "Oksana"}, {}]
    assert tokenizer.decode(parts[0].tokens) == f"call {N} now."


def test_stand_ins_that_are_cut_off_are_not_expected():
    tokenizer = Tokenizer.train_bpe(["call now."], 260)
    short = read_source("call now at the train Oksana", tokenizer, 9, COPYING)
    assert short.parts[0].values == {}
    assert "left out" in short.note


WORDS = {"call": "ruf", "now": "jetzt", "the": "der", "train": "Zug", "leaves": "fährt"}
SHARED = ["Xaver", "Yusuf", "Zoe", "Ines"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A translator of five words, which are in order in both languages, trained to copy."""
    path = tmp_path_factory.mktemp("copying")
    rows = []
    for words in itertools.permutations(WORDS, 2):
        for number, name in enumerate(SHARED, 20):
            for order in ([*words, name], [name, *words], [words[0], name, words[1], str(number)]):
                translated = [WORDS.get(word, word) for word in order]
                rows.append({"en": " ".join(order), "de": " ".join(translated)})
    table = path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = TranslationRecipe(
        output=path / "made",
        data=DataConfig(
            train=(str(table),), columns={"source": "en", "target": "de"}, validation_limit=5
        ),
        training=Training(
            steps=220, max_tokens=600, learning_rate=1e-2, warmup=10, evaluate_every=220
        ),
        model=TranslatorSizes(
            d_model=32, n_heads=2, d_ff=64, n_encoder_layers=1, n_decoder_layers=1, dropout=0.0
        ),
        vocab_size=300,
        max_length=19,
        copying=True,
        beam=Beam(size=3, length_penalty=1.0, length_rule="power"),
        device="cpu",
    )
    with unchecked():
        train(TASK, recipe)
    return path / "made"


def test_names_numbers_and_addresses_that_were_never_seen_survive(folder):
    translator = Translator.load(folder)
    texts = {
        "call Thorvald Mbeki now 4711": "ruf Thorvald Mbeki jetzt 4711",
        "train ola.b@example.org call 17": "Zug ola.b@example.org ruf 17",
        "Oksana leaves now": "Oksana fährt jetzt",
        "call now Oksana": "ruf jetzt Oksana",
    }
    for text, expected in texts.items():
        found = translator(text)
        assert (found.translation, found.note) == (expected, "")
    many = translator(list(texts))
    assert list(map(str, many)) == list(texts.values())


def test_the_files_of_a_translator_have_its_rule(folder, tmp_path):
    translator = Translator.load(folder)
    assert translator.copying is not None
    assert {"call", "train"} <= translator.copying.known
    translator.save(tmp_path / "again")
    files = [(path / "copying.json").read_bytes() for path in (folder, tmp_path / "again")]
    assert files[0] == files[1]
    assert (tmp_path / "again" / "config.json").read_bytes() == (
        folder / "config.json"
    ).read_bytes()


def test_a_base_that_copies_goes_on_copying_and_knows_more_words(folder, tmp_path):
    more = [("the ferry leaves", "die Fähre fährt")] * 3
    recipe = TranslationRecipe(
        output=tmp_path / "made", base=str(folder), data=DataConfig(train=("x",)), max_length=19
    )
    old = Translator.load(folder).copying
    new = recipe.build(Splits(train=more, validation=more)).copying
    assert old is not None
    assert new is not None
    assert new.known - old.known == {"the", "ferry", "leaves"} - old.known
    assert old.known < new.known
    assert (new.source, new.target) == (old.source, old.target)


def test_an_alignment_shows_the_words_themselves(folder):
    alignment = Translator.load(folder).align("call Oksana now")
    assert "Oksana" in "".join(alignment.source)
    assert "Oksana" in "".join(alignment.output)


def test_a_translator_without_the_rule_reads_the_words(folder):
    plain = replace(Translator.load(folder), copying=None)
    assert plain("call now Oksana").translation != "ruf jetzt Oksana"


def test_both_ways_adds_the_opposite_direction():
    pairs = [("call Oksana now", "ruf Oksana jetzt"), ("the train", "der Zug")] * 3
    data = DataConfig(train=("x",), columns={"source": "en", "target": "de"})
    options = {"output": Path("x"), "data": data, "both_ways": True}
    plain = TranslationRecipe(**options)._pairs(pairs, None)
    assert plain == [*pairs, *((target, source) for source, target in pairs)]
    masked = TranslationRecipe(**options)._pairs(pairs, Copying.learn(pairs, "en", "de"))
    assert len(masked) == 12
    assert all(("Oksana" in a + b) is False for a, b in masked)
    for source, target in (masked[0], masked[6]):
        assert STAND_INS.findall(source) == STAND_INS.findall(target) != []


def test_languages_without_a_rule_are_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("fr,de\nun,ein\ndeux,zwei\n", encoding="utf-8")
    recipe = TranslationRecipe(
        output=tmp_path / "made",
        data=DataConfig(
            train=(str(tmp_path / "pairs.csv"),),
            columns={"source": "fr", "target": "de"},
            validation_fraction=0.5,
        ),
        copying=True,
    )
    with unchecked(), pytest.raises(ConfigError, match="cannot be copied in fr; expected"):
        train(TASK, recipe)
