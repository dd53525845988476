"""Laws of tokenizers: what comes back from ids, through files, and from a second training."""

import subprocess
import sys

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers.models import WordLevel

from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, VocabularyError

TEXTS = [
    "The dog sees the cat, and the cat sees the dog.",
    "Dogs are seen by cats; cats are never seen by dogs!",
    "Der Hund sieht die Katze, die Katze hört den Hund über die Straße laufen.",
    "犬は猫を見る。",
] * 3

TRAINERS = {
    "characters": lambda: Tokenizer.train_characters(TEXTS),
    "bpe": lambda: Tokenizer.train_bpe(TEXTS, 300),
    "wordpiece": lambda: Tokenizer.train_wordpiece(TEXTS, 120),
    "unigram": lambda: Tokenizer.train_unigram(TEXTS, 80),
}
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))  # all but lone surrogates, no text


@pytest.fixture(scope="module")
def trained():
    return {kind: train() for kind, train in TRAINERS.items()}


@pytest.fixture(params=TRAINERS)
def tokenizer(request, trained):
    return trained[request.param]


def test_special_tokens_come_first(tokenizer):
    assert (tokenizer.pad, tokenizer.start, tokenizer.stop, tokenizer.unknown) == (0, 1, 2, 3)
    assert tokenizer.tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]


def test_a_known_text_is_not_unknown_and_comes_back(tokenizer):
    text = "the cat sees the dog"
    ids = tokenizer.encode(text)
    assert max(ids) < tokenizer.vocab_size
    assert min(ids) > tokenizer.unknown
    assert tokenizer.decode(ids) == text


@given(UNICODE)
@example("</s> a <s>b<pad> <unk>\u2028\r\n\t  Å é🙂\x00")
def test_byte_level_bpe_loses_nothing(trained, text):
    ids = trained["bpe"].encode(text)
    assert trained["bpe"].decode(ids) == text
    assert all(i > 3 for i in ids)


@given(st.text(sorted(set("".join(TEXTS)))))
def test_characters_lose_nothing_that_was_seen(trained, text):
    ids = trained["characters"].encode(text)
    assert len(ids) == len(text)
    assert trained["characters"].decode(ids) == text
    assert trained["characters"].tokens(ids) == list(text)


def test_characters_are_in_the_order_of_unicode():
    tokenizer = Tokenizer.train_characters(["cab", "\n"])
    assert tokenizer.encode("\nabcd") == [4, 5, 6, 7, tokenizer.unknown]
    assert tokenizer.vocab_size == 8


def test_no_text_can_smuggle_a_special_token_in(tokenizer):
    ids = tokenizer.encode("a <s> b </s> c<pad>")
    assert not {tokenizer.pad, tokenizer.start, tokenizer.stop} & set(ids)


def test_special_names_in_the_training_text_change_no_special_id():
    for train in (Tokenizer.train_characters, lambda t: Tokenizer.train_unigram(t, 60)):
        tokenizer = train([*TEXTS[:2], "<s> and </s>"] * 9)
        assert (tokenizer.pad, tokenizer.start, tokenizer.stop) == (0, 1, 2)
        assert not {0, 1, 2} & set(tokenizer.encode("<s> and </s>"))


def test_decoding_ends_at_stop_and_skips_special_tokens(tokenizer):
    ids = tokenizer.encode("the dog")
    padded = [tokenizer.start, *ids, tokenizer.pad, tokenizer.stop, *tokenizer.encode("cat")]
    assert tokenizer.decode(padded) == "the dog"


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    texts = ["the dog", "", "cats are never seen"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_byte_level_labels_are_readable(trained):
    tokenizer = trained["bpe"]
    assert tokenizer.tokens(tokenizer.encode("the dog")) == ["the", " dog"]
    # The bytes F0 9F 99 82, of which none is a text: each keeps its name.
    assert tokenizer.tokens(tokenizer.encode("🙂")) == ["ð", "Ł", "Ļ", "Ĥ"]


@pytest.mark.parametrize("i", [-1, 300])
def test_an_id_outside_the_vocabulary_raises(trained, i):
    message = rf"id {i} is not in the vocabulary, expected 0 to 299"
    with pytest.raises(VocabularyError, match=message):
        trained["bpe"].decode([5, i])
    with pytest.raises(VocabularyError, match=message):
        trained["bpe"].tokens([5, i])


def test_a_file_gives_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    tokenizer.save(tmp_path / "other" / "mine.json")
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "other" / "mine.json"):
        loaded = Tokenizer.load(path)
        ids = loaded.encode("The dog </s>, 犬 sees Ω")
        assert ids == tokenizer.encode("The dog </s>, 犬 sees Ω")
        assert loaded.decode(ids) == tokenizer.decode(ids)
        assert loaded.tokens(ids) == tokenizer.tokens(ids)


def test_what_a_file_asks_for_does_not_pad_or_cut(trained, tmp_path):
    trained["bpe"].save(tmp_path)
    file = tmp_path / "tokenizer.json"
    asking = tokenizers.Tokenizer.from_file(str(file))
    asking.enable_truncation(2)
    asking.enable_padding(length=9)
    asking.save(str(file))
    assert Tokenizer.load(tmp_path).encode("the dog sees") == trained["bpe"].encode("the dog sees")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", r"tokenizer\.json is not a tokenizer: expected JSON"),
        (b"not json", r"tokenizer\.json is not a tokenizer: expected JSON"),
        (b"{\n\xff\xfe", r"tokenizer\.json, line 2: not UTF-8 \(invalid start byte\)"),
    ],
)
def test_a_file_that_is_no_tokenizer_raises(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(DataError, match=message):
            Tokenizer.load(path)


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(
        DataError, match=r"no tokenizer at .*expected tokenizer\.json or a folder with it"
    ):
        Tokenizer.load(tmp_path)


def test_a_vocabulary_without_our_special_tokens_says_so(tmp_path):
    other = tokenizers.Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(VocabularyError, match="has no stop token, only none: was it made"):
        _ = Tokenizer.load(tmp_path).stop


@pytest.mark.parametrize(
    ("train", "smallest"),
    [
        (Tokenizer.train_bpe, 260),
        (Tokenizer.train_wordpiece, 4 + 2 * 3),
        (Tokenizer.train_unigram, 4 + 3 + 1),
    ],
)
def test_a_vocabulary_too_small_for_single_characters_raises(train, smallest):
    with pytest.raises(ConfigError, match=f"{smallest - 1}, expected at least {smallest}"):
        train(["aab", "abc"], smallest - 1)
    assert train(["aab", "abc"], smallest).vocab_size <= smallest


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_an_error(texts):
    message = f"without text: all {len(texts)} texts"
    with pytest.raises(DataError, match=message):
        Tokenizer.train_characters(texts)
    for train in (Tokenizer.train_bpe, Tokenizer.train_wordpiece, Tokenizer.train_unigram):
        with pytest.raises(DataError, match=message):
            train(texts, 500)


def test_long_texts_are_learned_from_too():
    # SentencePiece by itself leaves out what is longer than 4,192 bytes.
    tokenizer = Tokenizer.train_unigram(["the dog", "q" * 5000], 60)
    assert tokenizer.unknown not in tokenizer.encode("q")


def test_wordpiece_keeps_case_when_asked():
    cased = Tokenizer.train_wordpiece(TEXTS, 120, lowercase=False)
    assert cased.decode(cased.encode("Der Hund hört")) == "Der Hund hört"
    uncased = Tokenizer.train_wordpiece(TEXTS, 120)
    assert uncased.decode(uncased.encode("Der Hund hört")) == "der hund hort"


DIGEST = """
import sys, hashlib
from qkv.data.tokenizers import Tokenizer as T
texts = sys.stdin.buffer.read().decode().split("\\n")
for t in (T.train_characters(texts), T.train_bpe(texts, 400), T.train_wordpiece(texts, 300),
          T.train_unigram(texts, 200)):
    print(hashlib.sha256(t.files["tokenizer.json"]).hexdigest())
"""


def test_training_is_silent_and_gives_the_same_in_every_process():
    # Each process has its own hash seeds, which the trainers' tables depend on.
    words = [f"{a}{b}{c}" for a in "bdgkt" for b in ("ai", "o", "u") for c in ("n", "rt", "st")]
    texts = "\n".join(" ".join(words[i::7]) for i in range(7)) * 3
    runs = [
        subprocess.run([sys.executable, "-c", DIGEST], input=texts.encode(), capture_output=True)
        for _ in range(3)
    ]
    assert [run.stderr for run in runs] == [b""] * 3
    assert len(runs[0].stdout.split()) == 4
    assert len({run.stdout for run in runs}) == 1
