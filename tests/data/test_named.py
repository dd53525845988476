"""Named sets: their published sizes, and the laws of the reviews that ship with the package."""

import gzip
from collections import Counter, defaultdict

import pytest

from qkv.data.sets import load_set, named_sets
from qkv.data.sets.reviews import reviews
from qkv.errors import DataError

PARTS = {"train": 900, "validation": 276, "test": 300}
HALVES = {split: n // 2 for split, n in PARTS.items()}

SIZES = {
    ("opinions", "train"): "negative 4892 positive 4864",
    ("opinions", "validation"): "positive 458 negative 441",
    ("clear_opinions", "test"): "positive 50 negative 50",
    ("sst2", "train"): "positive 3610 negative 3310",
    ("sst2", "validation"): "positive 444 negative 428",
    ("trec", "train"): "ENTY 1250 HUM 1223 DESC 1162 NUM 896 LOC 835 ABBR 86",
    ("trec", "test"): "DESC 138 NUM 113 ENTY 94 LOC 81 HUM 65 ABBR 9",
    ("ag_news", "test"): "Business 1900 Sci/Tech 1900 Sports 1900 World 1900",
    ("emotion", "train"): "joy 5362 sadness 4666 anger 2159 fear 1937 love 1304 surprise 572",
    ("emotion", "validation"): "joy 704 sadness 550 anger 275 fear 212 love 178 surprise 81",
    ("emotion", "test"): "joy 695 sadness 581 anger 275 fear 224 love 159 surprise 66",
    ("qamr_sentences", "train"): "answers 8685 does not answer 8685",
    ("qamr_sentences", "validation"): "answers 769 does not answer 769",
    ("qamr_sentences", "test"): "answers 9385 does not answer 9385",
}


@pytest.mark.parametrize(("name", "split"), SIZES)
def test_the_real_sets_have_their_published_sizes(shared_data, name, split):
    examples = load_set("classify", name, split, shared_data)
    counts = Counter(example.label for example in examples).most_common()
    assert " ".join(f"{label} {count}" for label, count in counts) == SIZES[name, split]
    assert all(example.text.strip() for example in examples)


def test_what_the_columns_and_labels_mean(shared_data):
    assert load_set("classify", "sst2", "validation", shared_data)[0] == (
        "one long string of cliches",
        "negative",
    )
    assert load_set("classify", "trec", "train", shared_data)[0] == (
        "How did serfdom develop in and then leave Russia ?",
        "DESC",
    )
    text, label = load_set("classify", "ag_news", "test", shared_data)[0]
    assert text.startswith(
        "Fears for T N pension after talks Unions representing workers at Turner"
    )
    assert label == "Business"
    emotions = load_set("classify", "emotion", "train", shared_data)
    assert emotions[0] == ("i didnt feel humiliated", "sadness")


def test_trec_is_latin_1(tmp_path):
    (tmp_path / "trec").mkdir()
    lines = "NUM:dist How far is it ?\nLOC:city Where is Älvsjö ?\n"
    (tmp_path / "trec" / "TREC.test.gz").write_bytes(gzip.compress(lines.encode("latin-1")))
    examples = load_set("classify", "trec", "test", tmp_path)
    assert examples == [("How far is it ?", "NUM"), ("Where is Älvsjö ?", "LOC")]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        (
            "imdb",
            "train",
            "no data set 'imdb' to classify; expected reviews, opinions, clear_opinions, sst2",
        ),
        ("sst2", "test", "no split 'test' of sst2; expected train, validation"),
        ("trec", "validation", "no split 'validation' of trec; expected train, test"),
        ("emotion", "train", "no data set 'emotion': looked for the folder"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(tmp_path, name, split, message):
    with pytest.raises(DataError, match=message):
        load_set("classify", name, split, tmp_path)


def test_each_set_says_which_parts_it_has():
    sets = named_sets("classify")
    assert {(name, split) for name in sets for split in sets[name].splits} == {
        *SIZES,
        *(("reviews", split) for split in PARTS),
    }


def trigrams(text):
    words = ["".join(filter(str.isalnum, word)) for word in text.lower().split()]
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def near_copies(one, other, least=0.3):
    """Pairs of texts that share at least so many of their word trigrams (Jaccard)."""
    holders = defaultdict(list)
    for text in other:
        for trigram in trigrams(text):
            holders[trigram].append(text)
    found = []
    for text in one:
        mine = trigrams(text)
        for candidate in {text for trigram in mine for text in holders[trigram]}:
            theirs = trigrams(candidate)
            if len(mine & theirs) >= least * len(mine | theirs):
                found.append((text, candidate))
    return found


def test_near_copies_are_found_by_their_trigrams():
    one = ["The soup was cold, and the waiter laughed.", "Four of the six chapters drag badly."]
    other = ["the soup was cold and the cook laughed", "Two of the six chapters are fun."]
    # 4 of the 8 trigrams of the soups, 2 of the 8 of the chapters.
    assert near_copies(one, other) == [(one[0], other[0])]
    assert near_copies(one, other, 0.25) == list(zip(one, other, strict=True))
    assert near_copies(one, other, 0.51) == []


@pytest.fixture(scope="module")
def parts():
    return {split: reviews(split) for split in PARTS}


def test_the_reviews_are_enough_and_balanced(parts):
    for split, rows in parts.items():
        assert len(rows) == PARTS[split]
        assert Counter(row.label for row in rows) == {
            "positive": HALVES[split],
            "negative": HALVES[split],
        }
        by_topic = Counter((row.topic, row.label) for row in rows)
        for topic in {row.topic for row in rows}:
            assert abs(by_topic[topic, "positive"] - by_topic[topic, "negative"]) <= 2
        assert {row.trait for row in rows} == {"plain", "implied", "negation", "mixed", "irony"}
    topics = [{row.topic for row in rows} for rows in parts.values()]
    assert topics[0] == topics[1] == topics[2]
    assert len(topics[0]) >= 5


def test_no_review_is_nearly_in_another_part(parts):
    texts = {split: [row.text for row in rows] for split, rows in parts.items()}
    assert len(set().union(*texts.values())) == sum(PARTS.values())
    rest = texts["train"] + texts["validation"]
    assert near_copies(texts["test"], rest) == []
    assert near_copies(texts["validation"], texts["train"]) == []


def test_reviews_are_examples_too(parts):
    assert load_set("classify", "reviews", "test") == [
        (row.text, row.label) for row in parts["test"]
    ]
    with pytest.raises(DataError, match=r"no split 'dev' of reviews; expected .*validation"):
        load_set("classify", "reviews", "dev")


def test_reviews_are_read_by_part(tmp_path, monkeypatch):
    path = tmp_path / "reviews.csv"
    path.write_text(
        "text,label,topic,trait,split\n"
        '"Fine, really.",positive,meals,plain,train\n'
        "Not once did it cut.,negative,tools,negation,test\n"
    )
    monkeypatch.setattr("qkv.data.sets.reviews.PATH", path)
    assert reviews("test") == [("Not once did it cut.", "negative", "tools", "negation")]
    assert load_set("classify", "reviews", "train") == [("Fine, really.", "positive")]
