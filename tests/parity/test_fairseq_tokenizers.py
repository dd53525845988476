"""Tokenizers of XLM-R, CamemBERT and mBART against those of transformers, on small models.

As with T5 and Llama 2, SentencePiece is right where the two differ: theirs splits a text at every
white space and, for mBART, normalizes nothing. Compared are lines that are normalized already.
"""

import io
import json
import re

import pytest
import sentencepiece
import transformers
from tests.parity.hard_lines import hard_lines

from qkv.data.tokenizers import load_tokenizer
from qkv.errors import ConfigError, DataError, VocabularyError

FILE = "sentencepiece.bpe.model"
LINES = hard_lines()
CLASSES = ("XLMRobertaTokenizer", "CamembertTokenizer", "MBartTokenizer", "MBart50Tokenizer")
MARKED = CLASSES[2:]
ROLES = {"pad": "pad", "unknown": "unk", "mask": "mask", "start": "cls", "stop": "sep"}
each = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(scope="module")
def model():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in LINES if line.strip()] * 2),
        model_writer=out,
        vocab_size=1301,
        character_coverage=0.99,  # some characters are unknown
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def lines(model):
    """Lines that normalizing again would leave as they are: theirs does it by other rules.

    A run of one character is left out, as it can be cut in several ways that are as likely.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    def normalize(line):
        return pieces.normalize(line).replace("▁", " ").strip()

    aside = re.compile(r"<|(.)\1\1\1")
    found = [
        line
        for line in map(normalize, LINES)
        if line.split() == line.split(" ") and line == normalize(line) and not aside.search(line)
    ]
    assert len(found) > 500
    return found


@pytest.fixture
def both(model, tmp_path, request):
    def make(name, **settings):
        folder = tmp_path / name
        folder.mkdir()
        (folder / FILE).write_bytes(model)
        said = {"tokenizer_class": name, **settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        theirs = getattr(transformers, name).from_pretrained(folder, local_files_only=True)
        theirs.model_max_length = 10**6  # it warns of long texts
        return load_tokenizer(folder), theirs

    return make


@each
def test_ids_and_texts(both, lines, name):
    ours, theirs = both(name)
    assert ours.vocab_size == len(theirs)
    expected = theirs(lines, add_special_tokens=False, split_special_tokens=True).input_ids
    found = ours.encode_batch(lines)
    assert found == expected
    assert any(ours.unknown in ids for ids in found)
    assert found == [ours.encode(line) for line in lines]
    assert found == [ours.encode_with_offsets(line)[0] for line in lines]
    for ids in found:
        if ours.unknown not in ids:  # theirs says "<unk>" or nothing
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@each
def test_names_and_special_tokens(both, name):
    ours, theirs = both(name)
    tokens = theirs.convert_ids_to_tokens(range(len(theirs)))
    assert ours.tokens(range(ours.vocab_size)) == tokens
    assert [ours.id_of(token) for token in tokens] == list(range(ours.vocab_size))
    for role, key in ROLES.items():
        assert getattr(ours, role) == getattr(theirs, f"{key}_token_id")
    names = set(theirs.all_special_tokens)
    assert {ours.id_of(token) for token in names} <= ours.special_ids
    typed = ours.special_ids - {ours.unknown}
    assert not any(typed.intersection(ids) for ids in ours.encode_batch(LINES))
    for i in (-1, ours.vocab_size):
        with pytest.raises(VocabularyError, match=f"id {i} is not in the vocabulary"):
            ours.decode([i])


@each
def test_what_stands_around(both, name):
    ours, theirs = both(name)
    for texts in (("the dog sees",), ("the dog sees", "two cats")):
        assert ours.add_special_tokens(*map(ours.encode, texts)).ids == theirs(*texts).input_ids


@pytest.mark.parametrize(
    ("name", "first", "mask"),
    [
        ("XLMRobertaTokenizer", 1, 1),
        ("CamembertTokenizer", 4, 4),
        ("MBartTokenizer", 1, 26),
        ("MBart50Tokenizer", 1, 53),
    ],
)
def test_offsets_of_the_published_vocabularies(both, model, name, first, mask):
    """XLM-R has 250,000 pieces and its mask at 250,001; CamemBERT 32,000 and 32,004."""
    ours, _ = both(name)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert ours.id_of(pieces.id_to_piece(7)) == 7 + first
    assert ours.mask == len(pieces) + mask
    assert ours.unknown == 3


@pytest.mark.parametrize("name", MARKED)
def test_languages(both, name):
    ours, theirs = both(name, src_lang="de_DE", tgt_lang="fr_XX")
    code = theirs.convert_tokens_to_ids
    marked = {
        "MBartTokenizer": lambda language: [7, ours.stop, code(language)],
        "MBart50Tokenizer": lambda language: [code(language), 7, ours.stop],
    }[name]
    start = {"MBartTokenizer": code, "MBart50Tokenizer": lambda language: ours.stop}[name]
    assert ours.add_special_tokens([7]).ids == marked("de_DE")
    assert ours.target.add_special_tokens([7]).ids == marked("fr_XX")
    assert ours.target.start == start("fr_XX")
    assert theirs("dog").input_ids == ours.add_special_tokens(ours.encode("dog")).ids
    assert (
        theirs(text_target="dog").input_ids
        == ours.target.add_special_tokens(ours.encode("dog")).ids
    )
    other = ours.with_languages("ro_RO", "en_XX")
    assert other.add_special_tokens([7]).ids == marked("ro_RO")
    assert other.target.add_special_tokens([7]).ids == marked("en_XX")
    assert other.target.start == start("en_XX")
    # What was written is read back without its mark.
    text = "the dog sees"
    assert ours.target.decode([ours.target.start, *marked("fr_XX")[:-2], ours.stop]) is not None
    assert ours.target.decode(ours.target.add_special_tokens(ours.encode(text)).ids) == text


def test_no_language_that_is_not_there(both, model, tmp_path):
    ours, _ = both("MBartTokenizer")
    with pytest.raises(VocabularyError, match="has no language 'pl_PL'; expected a code such as"):
        ours.with_languages("en_XX", "pl_PL")
    with pytest.raises(
        VocabularyError, match="'en_XX' and 'fr_XX' for a tokenizer without languages"
    ):
        both("XLMRobertaTokenizer")[0].with_languages("en_XX", "fr_XX")
    (tmp_path / FILE).write_bytes(model)
    said = {"tokenizer_class": "MBartTokenizer", "src_lang": "tlh"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(VocabularyError, match="has no language 'tlh'"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**said, "src_lang": ["de_DE"]}))
    with pytest.raises((ConfigError, DataError), match="src_lang"):
        load_tokenizer(tmp_path)


@each
def test_a_tokenizer_json_of_the_reference(both, lines, tmp_path, name):
    options = {"src_lang": "de_DE", "tgt_lang": "fr_XX"} if name in MARKED else {}
    from_files, theirs = both(name, **options)
    theirs.save_pretrained(tmp_path / "json")
    ours = load_tokenizer(tmp_path / "json")
    assert (tmp_path / "json" / "tokenizer.json").exists()
    assert ours.encode_batch(lines) == from_files.encode_batch(lines)
    for one, other in ((ours, from_files), (ours.target, from_files.target)):
        for sequences in ([[17, 19]], [[17, 19], [23]]):
            assert one.add_special_tokens(*sequences) == other.add_special_tokens(*sequences)
        assert (one.start, one.stop, one.pad) == (other.start, other.stop, other.pad)
    typed = ours.special_ids - {ours.unknown}
    assert not any(typed.intersection(ids) for ids in ours.encode_batch(LINES))


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("xlm-roberta", "XLMRobertaTokenizer"),
        ("camembert", "CamembertTokenizer"),
        ("mbart", "MBartTokenizer"),
    ],
)
def test_a_folder_that_names_its_model_alone(both, model, tmp_path, model_type, name):
    (tmp_path / FILE).write_bytes(model)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    ours, expected = load_tokenizer(tmp_path), both(name)[0]
    assert ours.encode("the dog") == expected.encode("the dog")
    assert ours.add_special_tokens([7]) == expected.add_special_tokens([7])
    assert set(ours.files) == {FILE}


def test_a_vocabulary_that_was_cut_short(both, model, tmp_path):
    ours, _ = both("XLMRobertaTokenizer")
    (tmp_path / FILE).write_bytes(model)
    said = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "added_tokens_decoder": {str(ours.mask + 1): {"content": "<mask>", "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match=f"'<mask>' id {ours.mask + 1}, expected {ours.mask}"):
        load_tokenizer(tmp_path)
