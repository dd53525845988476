import os
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.generation.toy import START, STOP, Markov, nothing, rnn, sources

from qkv.data.tokenizers import Tokenizer, load_tokenizer
from qkv.errors import ConfigError, ShapeError
from qkv.generation.sampling import Sampling, sample
from qkv.generation.streaming import cut_text, ends_at, stream, text_pieces


def of_bytes(ids):
    """A tokenizer whose tokens are bytes: every border but those of letters falls within one."""
    return bytes(ids).decode(errors="replace")


def by_runs(ids):
    """As byte fallback decodes: one wrong byte makes a whole run of bytes unreadable."""
    try:
        return bytes(ids).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(ids)


TEXT = "Zwei Männer: „naïve“ 日本語 👩\u200d🚀 e\u0301"


def test_pieces_are_whole_characters():
    pieces = list(text_pieces(TEXT.encode(), of_bytes))
    assert pieces == list(TEXT)


def test_pieces_come_as_soon_as_their_characters_are_whole():
    read = []

    def ids():
        for i in "aä€👩".encode():
            read.append(i)
            yield i

    found = [(piece, len(read)) for piece in text_pieces(ids(), of_bytes)]
    assert found == [("a", 1), ("ä", 3), ("€", 6), ("👩", 10)]


def test_what_was_said_is_not_taken_back():
    pieces = text_pieces("é€".encode(), by_runs)
    assert list(pieces) == ["é", "€"]
    assert list(text_pieces("é€".encode()[:-1], by_runs)) == ["é"]  # cut off within a character


@settings(max_examples=200)
@given(ids=st.lists(st.integers(0, 255), max_size=12))
def test_any_bytes_come_out_as_they_are_decoded(ids):
    assert "".join(text_pieces(ids, of_bytes)) == of_bytes(ids)


texts = st.text(alphabet="ab\n日👩", max_size=12)


@settings(max_examples=200)
@given(
    text=texts,
    stop_strings=st.lists(st.text(alphabet="ab\n日", min_size=1, max_size=3), max_size=3),
)
@example(text="aba", stop_strings=["aba", "b"])  # the reading ends at "ab"
def test_the_text_ends_before_the_first_stop_string(text, stop_strings):
    pieces = text_pieces(text.encode(), of_bytes, stop_strings=stop_strings)
    beginnings = [text[:n] for n in range(len(text) + 1)]
    whole = (b for b in beginnings if any(s in b for s in stop_strings))
    assert "".join(pieces) == cut_text(next(whole, text), stop_strings)


def test_a_stop_string_ends_the_reading_and_is_held_back():
    rest = iter(b"one\n\ntwo")
    assert list(text_pieces(rest, of_bytes, stop_strings=["\n\n"])) == list("one")
    assert bytes(rest) == b"two"
    kept = list(text_pieces(b"a\nb", of_bytes, stop_strings=["\n\n"]))
    assert kept == ["a", "\nb"]  # it was none after all
    assert list(text_pieces(b"a\n", of_bytes, stop_strings=["\n\n"])) == ["a", "\n"]


def test_a_text_that_is_cut():
    assert cut_text("one two three", ["three", "two"]) == "one "
    assert cut_text("one", ["two"]) == cut_text("one", []) == "one"


TRAINED = {
    "characters": lambda texts: Tokenizer.train_characters(texts),
    "byte-level bpe": lambda texts: Tokenizer.train_bpe(texts, vocab_size=270),
    "wordpiece": lambda texts: Tokenizer.train_wordpiece(texts, vocab_size=90),
    "unigram": lambda texts: Tokenizer.train_unigram(texts, vocab_size=70),
}


@pytest.mark.parametrize("kind", list(TRAINED))
def test_pieces_of_every_kind_of_tokenizer(kind):
    tokenizer = TRAINED[kind]([f"{TEXT} don't stop, {TEXT}", "a pair of pairs, isn't it?"] * 5)
    generator = torch.Generator().manual_seed(0)
    chains = torch.randint(4, tokenizer.vocab_size, (30, 20), generator=generator).tolist()
    for ids in (*chains, tokenizer.encode(f"{TEXT}, isn't it?"), [*chains[0], tokenizer.stop]):
        pieces = list(text_pieces(ids, tokenizer.decode))
        assert "".join(pieces) == tokenizer.decode(ids)
        assert len(pieces) > 1


@pytest.mark.parametrize(
    "name", ["gpt2", "llama2", "bert-base-uncased", "opus-mt-en-mg", "legal-t5-small-fr-en"]
)
def test_pieces_of_published_tokenizers(name):
    folder = os.environ.get("QKV_DATA")
    if not folder:
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    tokenizer = load_tokenizer(Path(folder, "tokenizers", name))
    for text in (f"{TEXT} don't stop.", "👩\u200d🚀日本語", "two  spaces,\n\nlines"):
        ids = tokenizer.encode(text)
        pieces = list(text_pieces(ids, tokenizer.decode))
        assert "".join(pieces) == tokenizer.decode(ids)
        assert "\ufffd" not in "".join(pieces)
    generator = torch.Generator().manual_seed(0)
    for ids in torch.randint(tokenizer.vocab_size, (20, 15), generator=generator).tolist():
        pieces = "".join(text_pieces(ids, tokenizer.decode))
        assert pieces == tokenizer.decode(ids) or "\ufffd" in tokenizer.decode(ids)


def build():
    torch.manual_seed(0)
    model = rnn().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def test_a_stream_is_a_sample():
    model, (source, mask) = build(), sources(rows=4)
    processors = Sampling(temperature=0.8, top_p=0.9).processors()
    options = {"start": START, "stop": STOP, "max_length": 9, "processors": processors}
    answers = sample(model, source, token_mask=mask, seeds=range(4), **options)
    for row, answer in enumerate(answers):
        here = slice(row, row + 1)
        tokens = list(stream(model, source[here], token_mask=mask[here], seed=row, **options))
        assert [token.id for token in tokens] == answer.tokens
        assert [token.logprob for token in tokens] == pytest.approx(answer.logprobs, rel=1e-11)


def test_a_stream_computes_what_is_read_and_no_more():
    model = Markov(torch.zeros(13, 13))
    tokens = stream(model, nothing(), start=START, stop=-1, max_length=99, seed=1)
    assert model.steps == 0
    for n in range(1, 4):
        next(tokens)
        assert model.steps == n
        assert not torch.is_inference_mode_enabled()
    tokens.close()
    assert model.steps == 3


def test_sampled_answers_end_at_stop_strings():
    table = torch.full((300, 300), -99.0)
    for a, b in zip(b"\0one\n\ntwo", b"one\n\ntwo!", strict=True):
        table[a, b] = 9
    table[ord("\n")] = -99.0
    table[ord("\n"), ord("\n")] = 9
    options = {"start": 0, "stop": -1, "max_length": 9, "seeds": [0]}
    decode = lambda ids: of_bytes(ids)  # noqa: E731
    (answer,) = sample(Markov(table), nothing(), ends=ends_at(decode, ["\n\n"]), **options)
    assert of_bytes(answer.tokens) == "one\n\n"
    assert answer.ended
    assert cut_text(decode(answer.tokens), ["\n\n"]) == "one"


def test_what_cannot_be_streamed_is_refused_at_once(unchecked_types):
    options = {"start": START, "stop": STOP, "seed": 0}
    model = Markov(torch.zeros(13, 13))
    with pytest.raises(ShapeError, match="the source has 2 rows; expected a single row"):
        stream(model, nothing(2), max_length=3, **options)
    with pytest.raises(ConfigError, match="max_length is 0, expected at least 1"):
        stream(model, nothing(), max_length=0, **options)


@pytest.mark.parametrize(
    "use",
    [lambda: ends_at(of_bytes, [""]), lambda: list(text_pieces([], of_bytes, stop_strings=[""]))],
)
def test_an_empty_stop_string_is_refused(use):
    with pytest.raises(ConfigError, match="a stop string is empty: every answer would end before"):
        use()
