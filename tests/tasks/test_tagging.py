"""`qkv tag`: the tokens of words, entities of texts, training, and what is refused."""

import dataclasses
import itertools
import json

import pytest
import torch
import transformers
from tests.helpers import unchecked
from tests.tasks.byte_level import write_byte_level
from tests.tasks.small import BAD, GOOD, THINGS, results, tensors, write_base

import qkv.tasks.tagging as page
from qkv.cli import main
from qkv.data.tagging import TaggedSentence
from qkv.errors import ConfigError, DataError, LengthError
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.pretrained import load
from qkv.tasks.splits import DataConfig
from qkv.tasks.tagging import TASK, WORD, Entity, Tagger, TaggingRecipe, first_tokens
from qkv.tasks.train import train
from qkv.training.settings import Training

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
MODELS = [("bert", "BertForTokenClassification"), ("gpt2", "GPT2ForTokenClassification")]
WORDS = [
    ["the", "films", "was", "fine", "and", "not", "rude"],
    ["a", "soup", "."],
    ["the", "place", "was", "superb", "!", "the", "meal", "was", "dull", "and", "a", "book", "."],
]


def write_model(folder, model_type, architecture):
    if model_type == "bert":
        return write_base(folder, model_type, architecture)
    return write_byte_level(folder, model_type, architecture)


def tagger(folder, names=NAMES, **options):
    """A tagger in float64 whose config.json names the tags."""
    loaded = load(folder, dtype=torch.float64)
    labels = {"id2label": {str(i): name for i, name in enumerate(names)}}
    return Tagger.of(dataclasses.replace(loaded, config=loaded.config | labels), **options)


@pytest.fixture(params=MODELS, ids=["bert", "gpt2"])
def folder(request, tmp_path):
    return write_model(tmp_path / "model", *request.param)


@pytest.mark.parametrize(
    ("words", "offsets", "found"),
    [
        ("ab c", [(0, 1), (1, 2), (3, 4)], [0, 2]),
        ("ab c", [(0, 2), (2, 4)], [0, 1]),  # a token may begin with the space
        ("ab c", [(0, 2), (2, 3), (3, 4)], [0, 2]),  # a space alone is no word
        ("ab c d", [(0, 2), (5, 6)], [0, None, 1]),  # nothing is left of the second word
        ("ab c d", [(3, 4), (5, 6)], [None, 0, 1]),
        ("new york is", [(0, 8), (9, 11)], [0, 0, 1]),  # a token of two words
        ("ab c", [(0, 0), (0, 2), (3, 3), (3, 4)], [1, 3]),  # bytes before the last have no width
        ("ab c", [(0, 1), (0, 1), (1, 2), (3, 4), (3, 4)], [0, 3]),  # or all have its width
        ("ab c d", [(0, 2)], [0, None, None]),  # the rest is truncated
        ("ab c", [], [None, None]),
    ],
)
def test_the_first_token_of_each_word(words, offsets, found):
    assert first_tokens(words.split(), offsets) == found


def test_words_begin_at_their_positions_with_and_without_prefix_spaces(folder):
    made = tagger(folder)
    for words in WORDS:
        ids, positions = made.encode(words)
        assert None not in positions
        assert positions == sorted(set(positions))
        ends = [*positions[1:], len(ids)]
        for word, at, end in zip(words, positions, ends, strict=True):
            tokens = ids[at:end]
            assert word.startswith(made.tokenizer.tokens(tokens[:1])[0].strip().strip("#Ġ"))
            assert made.tokenizer.decode(tokens).strip() in (word, f"{word[:-1]} ##{word[-1]}")


@pytest.mark.parametrize("model_type", ["bert"])
def test_a_word_that_the_tokenizer_drops_shifts_no_other(tmp_path, model_type):
    made = tagger(write_model(tmp_path, *MODELS[0]))
    words = ["the", "\u200b", "film", "\u0007", "\u200b", "was"]
    ids, positions = made.encode(words)
    assert made.tokenizer.tokens(ids) == ["[CLS]", "the", "film", "was", "[SEP]"]
    assert positions == [1, None, 2, None, None, 3]
    alone, (tags,) = made.tags([["the", "film", "was"]])[0], made.tags([words])
    assert tags == [alone[0], "O", alone[1], "O", "O", alone[2]]
    with pytest.raises(DataError, match="a text has no tokens: '"):
        made.encode(["\u200b", "\u200b"])


def test_tags_are_those_of_transformers(folder):
    made = tagger(folder)
    config = json.loads((folder / "config.json").read_text())
    theirs = getattr(transformers, config["architectures"][0])
    theirs = theirs.from_pretrained(folder, dtype=torch.float64).eval()
    options = {"add_prefix_space": False} if config["model_type"] == "gpt2" else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    together = made.tags(WORDS)
    for words, tags in zip(WORDS, together, strict=True):
        ids, positions = made.encode(words)
        batch = tokenizer(" ".join(words), return_tensors="pt")
        assert batch["input_ids"][0].tolist() == ids
        with torch.no_grad():
            best = theirs(**batch).logits[0].argmax(-1).tolist()
        assert tags == [NAMES[best[at]] for at in positions]
        assert made.tags([words]) == [tags]
    assert len({tag for tags in together for tag in tags}) > 1


def test_words_beyond_the_length_have_no_entity_and_a_text_says_so(folder):
    words = WORDS[2]
    whole = tagger(folder, names=("B-A", "B-B", "B-C", "B-D", "B-E"))
    cut = dataclasses.replace(whole, max_length=7)
    ids, positions = cut.encode(words)
    assert len(ids) == 7
    n = sum(at is not None for at in positions)
    assert 0 < n < 7
    assert positions[n:] == [None] * (len(words) - n)
    assert cut.tags([words])[0][n:] == ["O"] * (len(words) - n)
    long, short = cut([" ".join(words), "a"])
    assert long.note == f"13 words, of which the model read the first {n}"
    assert len(long.entities) == n
    assert short.note == ""
    assert len(whole(" ".join(words)).entities) == 13
    with pytest.raises(LengthError, match="max_length = 0 leaves no room for words: the special "):
        Tagger.of(whole.loaded, max_length=0)("the film")


def test_entities_are_parts_of_the_text(folder, monkeypatch):
    text = "Ann  Lee,\tof New\nYork; Bob-Ray"
    tags = ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "O", "I-PER", "O", "B-PER"]
    monkeypatch.setattr(Tagger, "_tags", lambda *_, **options: [tags])
    found = tagger(folder)(text)
    assert found.entities == (
        Entity("Ann  Lee", "PER", 0, 8),
        Entity("New\nYork", "LOC", 13, 21),
        Entity("Bob", "PER", 23, 26),
        Entity("Ray", "PER", 27, 30),
    )
    assert all(text[one.start : one.end] == one.text for one in found.entities)
    line = page.Tag().line(found)
    assert line == "PER: Ann Lee\tLOC: New York\tPER: Bob\tPER: Ray"


def test_scores_are_those_of_the_tags(folder):
    made = tagger(folder)
    tags = made.tags(WORDS)
    right = [TaggedSentence(tuple(w), tuple(t)) for w, t in zip(WORDS, tags, strict=True)]
    assert made.evaluate(right).f1 == 1.0
    other = [one._replace(tags=("B-ORG",) * len(one.tags)) for one in right]  # of no known kind
    scores = made.evaluate(other)
    assert (scores.f1, scores.token_accuracy, scores.entities) == (0.0, 0.0, 23)
    with pytest.raises(DataError, match="no examples to batch: expected at least one"):
        made.evaluate([])


def test_what_cannot_be_tagged(folder, tmp_path):
    made = tagger(folder)
    with pytest.raises(DataError, match=r"a text has no words; expected at least one \(is it emp"):
        made(["the film", " "])
    with pytest.raises(DataError, match="text 1 is a int; expected a string"):
        made([7])
    write_base(tmp_path / "answers", architecture="BertForQuestionAnswering")
    with pytest.raises(ConfigError, match="the model is a QuestionAnswering; expected a model"):
        Tagger.load(tmp_path / "answers")
    write_base(tmp_path / "plain")
    with pytest.raises(ConfigError, match="the model is a Bert with a tokenizer; expected a model"):
        Tagger.load(tmp_path / "plain")


def sentences(n, first=0, step=9):
    """Things are entities, in one word or two; opinions are another kind."""
    found = []
    for thing, other, opinion in itertools.product(THINGS, THINGS[:5], GOOD + BAD):
        two = len(found) % 5 < 2
        tokens = ["the", thing, *([other] if two else []), "was", opinion, "."]
        tags = ["O", "B-THING", *(["I-THING"] if two else []), "O", "B-VIEW", "O"]
        found.append((tokens, tags))
    return found[first::step][:n]


def write_conll(path, rows):
    blocks = ["".join(f"{a} {b}\n" for a, b in zip(*row, strict=True)) for row in rows]
    path.write_text("\n".join(blocks))
    return path


@pytest.fixture
def fit(tmp_path):
    write_base(tmp_path / "base")
    table = write_conll(tmp_path / "train.conll", sentences(40))

    def run(output, *, base=None, finetuning=None, **options):
        settings = {"epochs": 6.0, "batch_size": 7, "learning_rate": 3e-3, "save_every": 2}
        recipe = TaggingRecipe(
            output=tmp_path / output,
            base=str(base or tmp_path / "base"),
            data=DataConfig(train=(str(table),), validation_fraction=0.25),
            finetuning=finetuning or FineTuning(),
            training=Training(warmup=0.0, **settings | options),
            max_length=31,
            device="cpu",
        )
        with unchecked():
            train(TASK, recipe)
        return tmp_path / output

    return run


def test_from_a_file_to_entities(fit, tmp_path, capsys):
    made = fit("made", epochs=20.0)
    out = capsys.readouterr().out
    assert "4 classes: B-THING (30), B-VIEW (30), I-THING (" in out
    assert "entity F1 " in out
    assert results(made)["validation"]["f1"] > 0.9
    config = json.loads((made / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert Tagger.load(made).max_length == 31
    texts = ["the garden soup was superb .", "the film was rude ."]
    assert main(["tag", "-m", str(made), *texts]) == 0
    lines = capsys.readouterr().out.splitlines()
    predictions = Tagger.load(made)(texts)
    assert lines == [page.Tag().line(one) for one in predictions]
    assert lines[1] == "THING: film\tVIEW: rude"
    assert main(["tag", "-m", str(made), "--json", texts[1]]) == 0
    (entity, _) = json.loads(capsys.readouterr().out)["entities"]
    assert entity == ["film", "THING", 4, 8]
    test = write_conll(tmp_path / "test.conll", sentences(31, first=3, step=11))
    assert main(["evaluate", str(made), "--data", str(test), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["count"], [one["label"] for one in scores["labels"]]) == (31, ["THING", "VIEW"])
    assert scores["f1"] > 0.9
    assert main(["evaluate", str(made), "--data", str(test)]) == 0
    out = capsys.readouterr().out
    assert "31 sentences, 62 entities" in out
    assert "token accuracy of the most frequent tag" in out
    assert main(["evaluate", str(made), "--data", str(tmp_path / "gone.conll")]) == 2
    assert "gone.conll" in capsys.readouterr().err


def test_a_killed_run_goes_on_to_the_bit(fit, monkeypatch):
    whole = fit("whole")
    calls, original = itertools.count(1), page.TaggingRecipe.loss

    def loss(*arguments):
        if next(calls) == 4:
            raise ZeroDivisionError("killed")
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(page.TaggingRecipe, "loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit("killed")
    fit("killed")
    expected = tensors(whole)
    found = tensors(whole.with_name("killed"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert results(whole) == results(whole.with_name("killed"))


def test_a_base_with_prefix_spaces_and_its_head_alone(fit, tmp_path):
    base = write_byte_level(tmp_path / "gpt2", "gpt2", "GPT2LMHeadModel")
    made = fit("made", base=base, finetuning=FineTuning(train="head"))
    before, after = tensors(base), tensors(made)
    changed = {name for name, x in after.items() if not torch.equal(x, before.get(name, x + 1))}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert len(Tagger.load(made).tags([["the", "film"]])[0]) == 2


def test_truncated_training_sentences_keep_the_tags_of_the_words_that_remain(fit, tmp_path):
    recipe = TaggingRecipe(output=tmp_path / "made", base=str(tmp_path / "base"), max_length=5)
    words, tags = ("the", "film", "was", "fine", "."), ("O", "B-THING", "O", "B-VIEW", "O")
    rows = [TaggedSentence(words, tags), TaggedSentence(("the", "\u200b", "film"), tags[:3])]
    splits = page.Splits(train=rows, validation=rows)
    pipeline = recipe.build(splits)
    batches = recipe.batches(pipeline, splits).batches
    (batch,) = itertools.islice(batches, 1)
    numbers = sorted(batch.targets.tolist())
    expected = ["O", "B-THING", "O", "O", "O"]  # three words of five, and two that have tokens
    assert numbers == sorted(pipeline.labels.number(tag) for tag in expected)
    tokens = batch.tokens.flatten()[batch.positions]
    names = pipeline.tokenizer.tokens(tokens.tolist())
    assert sorted(names) == ["film", "film", "the", "the", "was"]


def test_a_combining_mark_belongs_to_its_word():
    text = "Zoe\u0308 met Ja\u0301n!"
    assert [word[0] for word in WORD.finditer(text)] == ["Zoe\u0308", "met", "Ja\u0301n", "!"]
