"""Tokenizers of published folders: small folders, written here, and what may be wrong in them."""

import copy
import io
import json
import pickle

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from qkv.data.tokenizers import TOKENIZER_FILES, Tokenizer, load_tokenizer
from qkv.errors import DataError, VocabularyError

WORDPIECE = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "dog", "##s", "\u2028", "é", "e"]
LETTERS = [*map(chr, range(33, 127)), "Ġ", "Ã", "©", "Ċ"]  # of bytes: space, two of "é", line end
BPE = [*LETTERS, "th", "the", "Ġd", "Ġdo", "Ġdog"]
MERGES = "#version: 0.2\nt h\nth e\nĠ d\nĠd o\nĠdo g\n"
END = "<|endoftext|>"
TEXTS = ["the dog sees two cats", "two cats see the dog, and the dog sees them"] * 9


def pieces(texts=TEXTS, size=48, **ids):
    """A small SentencePiece model, as bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    return model.getvalue()


T5_PIECES = pieces(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
LLAMA_PIECES = pieces(model_type="bpe", byte_fallback=True, size=300)
LLAMA_SIZE = len(sentencepiece.SentencePieceProcessor(model_proto=LLAMA_PIECES))


def fill(folder, files, **settings):
    folder.mkdir(exist_ok=True)
    if settings:
        files = {**files, "tokenizer_config.json": settings}
    for name, content in files.items():
        content = json.dumps(content) if isinstance(content, dict) else content
        content = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(content)
    return folder


def numbered(tokens):
    return {token: i for i, token in enumerate(tokens)}


def marian_ids():
    sides = [sentencepiece.SentencePieceProcessor(model_proto=one) for one in marian_sides()]
    own = {side.id_to_piece(i) for side in sides for i in range(3, len(side))}
    return numbered(["</s>", "<unk>", ">>fra<<", *sorted(own), "<pad>"])


def marian_sides():
    return pieces(), pieces(["le chien voit deux chats", "deux chats voient le chien"] * 9)


ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", *BPE, "<mask>"]
FILES = {
    "BertTokenizer": {"vocab.txt": "\n".join([*WORDPIECE, ""])},
    "GPT2Tokenizer": {"vocab.json": numbered([*BPE, END]), "merges.txt": MERGES},
    "RobertaTokenizer": {"vocab.json": numbered(ROBERTA_TOKENS), "merges.txt": MERGES},
    "T5Tokenizer": {"spiece.model": T5_PIECES},
    "LlamaTokenizer": {"tokenizer.model": LLAMA_PIECES},
    "MarianTokenizer": {
        "source.spm": marian_sides()[0],
        "target.spm": marian_sides()[1],
        "vocab.json": marian_ids(),
    },
}


@pytest.fixture(params=FILES)
def folder(request, tmp_path):
    return fill(tmp_path / "folder", FILES[request.param], tokenizer_class=request.param)


@pytest.fixture
def make(tmp_path):
    def make(name, files=None, /, **settings):
        settings = {"tokenizer_class": name} | settings
        return fill(tmp_path / "folder", {**FILES[name], **(files or {})}, **settings)

    return make


def test_files_are_written_back_as_they_were(folder, tmp_path):
    (folder / "special_tokens_map.json").write_bytes(b'{\r\n "unk_token":  null}')
    (folder / "model.safetensors").write_bytes(b"no file of a tokenizer")
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path / "copy")
    names = {path.name for path in folder.iterdir()} - {"model.safetensors"}
    assert names <= TOKENIZER_FILES
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names
    for name in names:
        assert (tmp_path / "copy" / name).read_bytes() == (folder / name).read_bytes()
    again = Tokenizer.load(tmp_path / "copy")
    assert again.encode("the dogs </s>") == tokenizer.encode("the dogs </s>")
    with pytest.raises(DataError, match=r"one\.json is a single file, .*expected a fol"):
        tokenizer.save(tmp_path / "one.json")


def test_a_text_comes_back(folder):
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("the dog")
    assert tokenizer.unknown not in ids
    assert tokenizer.decode(ids) == "the dog"
    wrapped = tokenizer.add_special_tokens(ids)
    assert tokenizer.decode(wrapped.ids) == "the dog"
    assert [i for i, of in zip(wrapped.ids, wrapped.sequence, strict=True) if of == 0] == ids


def test_no_one_can_type_a_token(folder):
    tokenizer = load_tokenizer(folder)
    names = [*WORDPIECE[:5], END, "<s>", "</s>", "<pad>", "<mask>", "<extra_id_0>"]
    for copied in (tokenizer, copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        for name in names:
            typed = {*copied.encode(f"{name} the{name}dog"), *copied.encode(name)}
            assert not typed & (copied.special_ids - {copied.unknown})
        assert copied.encode("the dog") == tokenizer.encode("the dog")


def test_offsets_are_the_places_of_the_text(folder):
    tokenizer = load_tokenizer(folder)
    text = "the dog  thé dog"
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    flat = [place for span in offsets for place in span]
    assert flat[0] == 0
    assert flat[-1] == len(text)
    assert all(0 <= first <= end <= len(text) for first, end in offsets)
    assert [first for first, _ in offsets] == sorted(first for first, _ in offsets)
    words = [text[first:end].strip() for first, end in offsets]
    names = [token.strip("Ġ▁ #") for token in tokenizer.tokens(ids)]
    known = [(word, name) for word, name in zip(words, names, strict=True) if name.isascii()]
    assert sum(word == name for word, name in known) >= 2  # "dog", at least, is one token


# Two texts, [7, 8] and [9]: what stands around the first alone, and around both.
@pytest.mark.parametrize(
    ("name", "single", "pair", "segments"),
    [
        ("BertTokenizer", [2, 7, 8, 3], [2, 7, 8, 3, 9, 3], [0, 0, 0, 0, 1, 1]),
        ("RobertaTokenizer", [0, 7, 8, 2], [0, 7, 8, 2, 2, 9, 2], [0] * 7),
        ("GPT2Tokenizer", [7, 8], [7, 8, 9], [0, 0, 1]),
        ("LlamaTokenizer", [1, 7, 8], [1, 7, 8, 1, 9], [0, 0, 0, 1, 1]),
        ("T5Tokenizer", [7, 8, 1], [7, 8, 1, 9, 1], [0] * 5),
        ("MarianTokenizer", [7, 8, 0], [7, 8, 9, 0], [0] * 4),
    ],
)
def test_what_a_family_puts_around_a_text(make, name, single, pair, segments):
    tokenizer = load_tokenizer(make(name))
    assert tokenizer.add_special_tokens([7, 8]) == (
        single,
        [0] * len(single),
        [_of(i) for i in single],
    )
    assert tokenizer.add_special_tokens([7, 8], [9]) == (pair, segments, [_of(i) for i in pair])
    assert tokenizer.add_special_tokens([], []).ids == [i for i in pair if _of(i) is None]


def _of(i):
    return {7: 0, 8: 0, 9: 1}.get(i)


def test_special_tokens_by_their_roles(make):
    bert = load_tokenizer(make("BertTokenizer"))
    assert (bert.pad, bert.unknown, bert.start, bert.stop, bert.mask) == (0, 1, 2, 3, 4)
    assert bert.special_ids == {0, 1, 2, 3, 4}
    gpt2 = load_tokenizer(make("GPT2Tokenizer"))
    assert gpt2.start == gpt2.stop == gpt2.id_of(END) == gpt2.vocab_size - 1
    with pytest.raises(VocabularyError, match=r"no pad token, only start 103, stop 103, unknown"):
        _ = gpt2.pad
    with pytest.raises(VocabularyError, match=r"'dogma' is not one of the 104 tokens"):
        gpt2.id_of("dogma")
    assert gpt2.decode([gpt2.start, *gpt2.encode("the dog"), gpt2.stop, 0]) == "the dog"


def test_t5_has_sentinels_after_its_pieces(make):
    size = len(sentencepiece.SentencePieceProcessor(model_proto=T5_PIECES))
    tokenizer = load_tokenizer(make("T5Tokenizer"))
    assert tokenizer.vocab_size == size + 100
    assert tokenizer.id_of("<extra_id_0>") == size + 99
    assert tokenizer.tokens([size]) == ["<extra_id_99>"]
    assert tokenizer.decode([size + 99, *tokenizer.encode("dog"), size]) == "dog"
    assert load_tokenizer(make("T5Tokenizer", extra_ids=3)).id_of("<extra_id_0>") == size + 2
    with pytest.raises(VocabularyError, match=f"id {size + 100} is not in the vocabulary"):
        tokenizer.decode([size + 100])


def test_marian_translates_between_two_tokenizers(make):
    tokenizer = load_tokenizer(make("MarianTokenizer"))
    text = "le chien voit"
    assert len(tokenizer.encode(text)) > len(tokenizer.target.encode(text))
    assert tokenizer.target.decode(tokenizer.target.encode(text)) == text
    assert tokenizer.target.files == tokenizer.files
    assert tokenizer.target.vocab_size == tokenizer.vocab_size
    ids, offsets = tokenizer.encode_with_offsets(">>fra<< the dog")
    assert ids == [tokenizer.id_of(">>fra<<"), *tokenizer.encode("the dog")]
    assert offsets[0] == (0, 7)
    assert offsets[-1][1] == 15
    assert tokenizer.encode(">>no<<dog") == [tokenizer.unknown, *tokenizer.encode("dog")]
    other = load_tokenizer(make("BertTokenizer"))
    assert other.target is other


def test_settings_of_wordpiece(make):
    assert load_tokenizer(make("BertTokenizer")).encode("É\u2028Dogs") == [10, 6, 7]
    cased = load_tokenizer(make("BertTokenizer", do_lower_case=False))
    assert cased.encode("é Dog dogs") == [9, 1, 6, 7]
    accents = load_tokenizer(make("BertTokenizer", strip_accents=False))
    assert accents.encode("É") == [9]


def test_settings_of_byte_level_bpe(make):
    tokenizer = load_tokenizer(make("GPT2Tokenizer", add_prefix_space=True))
    assert tokenizer.tokens(tokenizer.encode("dog dog")) == [" dog", " dog"]
    assert tokenizer.tokens(tokenizer.encode("é")) == [" ", "Ã", "©"]
    flagged = load_tokenizer(make("GPT2Tokenizer", add_bos_token=True))
    assert flagged.add_special_tokens([7]).ids == [103, 7]


@pytest.mark.parametrize(
    ("flags", "pair"),
    [
        ({"add_bos_token": False}, [7, 9]),
        ({"add_eos_token": True}, [1, 7, 2, 1, 9, 2]),
        ({"add_bos_token": False, "add_eos_token": True}, [7, 2, 9, 2]),
    ],
)
def test_flags_of_llama(make, flags, pair):
    assert load_tokenizer(make("LlamaTokenizer", **flags)).add_special_tokens([7], [9]).ids == pair


def test_folders_that_name_other_special_tokens(make):
    mask = {"content": "the", "lstrip": True, "special": True}
    tokenizer = load_tokenizer(make("BertTokenizer", mask_token=mask, pad_token="dog"))
    assert (tokenizer.mask, tokenizer.pad, tokenizer.stop) == (5, 6, 3)
    old = {"special_tokens_map.json": {"mask_token": "the", "sep_token": None}}
    assert load_tokenizer(make("BertTokenizer", old)).mask == 5


@pytest.mark.parametrize("name", ["BertTokenizer", "LlamaTokenizer", "MarianTokenizer"])
def test_tokens_that_a_folder_adds(make, name):
    size = load_tokenizer(make(name)).vocab_size
    added = {"added_tokens.json": {"<new>": size, "<newer>": size + 1}}
    also = {"additional_special_tokens": ["<newer>"], "pad_token": "<new>"}
    for options in (
        (added, also),
        (
            {},
            {
                "added_tokens_decoder": {
                    str(size): {"content": "<new>", "special": True},
                    str(size + 1): {"content": "<newer>", "special": True},
                },
                "pad_token": "<new>",
            },
        ),
    ):
        tokenizer = load_tokenizer(make(name, options[0], **options[1]))
        assert tokenizer.vocab_size == size + 2
        assert (tokenizer.pad, tokenizer.id_of("<newer>")) == (size, size + 1)
        assert tokenizer.special_ids >= {size, size + 1}
        assert not {size, size + 1} & {*tokenizer.encode("the<new> <newer>")}
        assert tokenizer.decode([size, *tokenizer.encode("the dog"), size + 1]) == "the dog"
        (make(name) / "added_tokens.json").unlink(missing_ok=True)


def test_the_class_follows_from_the_model_or_from_the_files(tmp_path):
    for i, (name, files) in enumerate(FILES.items()):
        if name != "RobertaTokenizer":
            bare = load_tokenizer(fill(tmp_path / str(i), files))
            assert bare.decode(bare.encode("the dog")) == "the dog"
    config = {"config.json": {"model_type": "bart"}}
    bart = load_tokenizer(fill(tmp_path / "bart", {**FILES["RobertaTokenizer"], **config}))
    assert bart.add_special_tokens([7]).ids == [0, 7, 2]
    fast = fill(tmp_path / "t5", FILES["T5Tokenizer"], tokenizer_class="T5TokenizerFast")
    assert load_tokenizer(fast).add_special_tokens([7]).ids == [7, 1]


def test_a_folder_without_a_vocabulary_has_no_tokenizer(tmp_path):
    folder = fill(tmp_path / "vit", {"config.json": {"model_type": "vit"}})
    assert load_tokenizer(folder) is None
    message = r"no tokenizer at .*or with merges\.txt, sentencepiece\.bpe\.model, source\.spm"
    with pytest.raises(DataError, match=message):
        Tokenizer.load(folder)


def broken(name, files=None, /, **settings):
    return name, files or {}, settings


SHORT = json.dumps(FILES["GPT2Tokenizer"]["vocab.json"], indent=0)[:100]
BROKEN = {
    r"vocab\.txt, line 3: 'the' is also on line 1; a token cannot have two ids": broken(
        "BertTokenizer", {"vocab.txt": "the\ndog\nthe\n"}
    ),
    r"vocab\.txt, line 2: empty; expected a token": broken(
        "BertTokenizer", {"vocab.txt": "the\r\n\r\ndog\r\n"}
    ),
    r"vocab\.txt, line 3: not UTF-8 \(invalid continuation byte\)": broken(
        "BertTokenizer", {"vocab.txt": b"the\ndog\n\xc3\x28\n"}
    ),
    r"vocab\.txt has no '\[CLS\]', the start token: is the file truncated": broken(
        "BertTokenizer", {"vocab.txt": "\n".join(WORDPIECE[:2])}
    ),
    r"vocab\.json, line \d+: not JSON, is it truncated\? \(Expecting": broken(
        "GPT2Tokenizer", {"vocab.json": SHORT}
    ),
    r"vocab\.json is a JSON list; expected an object": broken(
        "GPT2Tokenizer", {"vocab.json": "[]"}
    ),
    r"vocab\.json has 'a' twice": broken("GPT2Tokenizer", {"vocab.json": '{"a": 0, "a": 1}'}),
    r"vocab\.json: 'a' and 'c' both have id 0": broken(
        "GPT2Tokenizer", {"vocab.json": {"a": 0, "b": 1, "c": 0}}
    ),
    r"vocab\.json: 'c' has id 3; expected 0 to 2 for 3 tokens": broken(
        "GPT2Tokenizer", {"vocab.json": {"a": 0, "b": 1, "c": 3}}
    ),
    r"vocab\.json: 'b' has id '1'; expected": broken(
        "GPT2Tokenizer", {"vocab.json": {"a": 0, "b": "1"}}
    ),
    r"merges\.txt, line 3: 'the' is not a merge; expected two pieces": broken(
        "GPT2Tokenizer", {"merges.txt": "#version: 0.2\nt h\nthe\n"}
    ),
    r"merges\.txt, line 2: 't  h' is not a merge": broken(
        "GPT2Tokenizer", {"merges.txt": "#version: 0.2\nt  h\n"}
    ),
    r"merges\.txt, line 2: 'hx' is not in the vocabulary": broken(
        "GPT2Tokenizer", {"merges.txt": "t h\nh x\n"}
    ),
    r"spiece\.model is not a SentencePiece model: is it truncated": broken(
        "T5Tokenizer", {"spiece.model": T5_PIECES[:-9]}
    ),
    r"tokenizer\.model is not a SentencePiece model: .*Llama 3": broken(
        "LlamaTokenizer", {"tokenizer.model": "IQ== 0\nIg== 1\n"}
    ),
    r"target\.spm is not a SentencePiece model": broken("MarianTokenizer", {"target.spm": b""}),
    r"has no tokenizer\.json, and its tokenizer class is 'XLNetTokenizer'; .*BertTok": broken(
        "T5Tokenizer", tokenizer_class="XLNetTokenizer"
    ),
    r"has no vocab\.txt: a BertTokenizer needs tokenizer\.json, or voc": broken(
        "T5Tokenizer", tokenizer_class="BertTokenizer"
    ),
    r"tokenizer_config\.json: do_basic_tokenize = False is not implemented for a Bert": broken(
        "BertTokenizer", do_basic_tokenize=False
    ),
    r"separate_vocabs = True is not implemented": broken("MarianTokenizer", separate_vocabs=True),
    r"vocab\.txt has no '<gone>', the mask token": broken("BertTokenizer", mask_token="<gone>"),
    r"adds '<new>' to its vocabulary, which is not a special token": broken(
        "BertTokenizer", {"added_tokens.json": {"<new>": 11}}
    ),
    **{
        rf"the added token '<new>' id {i}, expected {expected}: is the vocabulary trunc": broken(
            name, {"added_tokens.json": {"<new>": i}}, pad_token="<new>"
        )
        for name, i, expected in (
            ("BertTokenizer", 17, 11),
            ("LlamaTokenizer", 700, LLAMA_SIZE),
            ("MarianTokenizer", 800, len(marian_ids())),
        )
    },
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_says_what_and_where(make, message):
    name, files, settings = BROKEN[message]
    with pytest.raises(DataError, match=message):
        load_tokenizer(make(name, files, **settings))


def test_settings_that_are_no_object(make):
    folder = make("BertTokenizer")
    (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is a JSON list"):
        load_tokenizer(folder)


def unigram_json(folder, **settings):
    """A tokenizer.json as T5's: its model has the special tokens among its pieces."""
    names = ["<pad>", "</s>", "<unk>", "▁", "▁the", "▁dog", "s", "/", "<", ">", "pad"]
    model = models.Unigram([(name, -float(i)) for i, name in enumerate(names)], unk_id=2)
    one = tokenizers.Tokenizer(model)
    one.pre_tokenizer = pre_tokenizers.Metaspace()
    one.decoder = decoders.Metaspace()
    one.add_special_tokens(["<pad>", "</s>", "<unk>"])
    one.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 1)]
    )
    return fill(folder, {"tokenizer.json": one.to_str()}, **settings)


def test_a_tokenizer_json_says_what_stands_around(tmp_path):
    tokenizer = load_tokenizer(unigram_json(tmp_path / "json"))
    assert tokenizer.add_special_tokens([4]) == ([4, 1], [0, 0], [0, None])
    assert tokenizer.add_special_tokens([4], [5]).ids == [4, 1, 5, 1]
    assert tokenizer.add_special_tokens([4], [5]).segments == [0, 0, 1, 1]
    assert (tokenizer.pad, tokenizer.stop, tokenizer.unknown) == (0, 1, 2)
    with pytest.raises(VocabularyError, match="no start token"):
        _ = tokenizer.start
    t5 = load_tokenizer(unigram_json(tmp_path / "t5", tokenizer_class="T5Tokenizer"))
    assert t5.start == t5.pad == 0


def test_no_one_can_type_a_token_that_the_model_has_as_a_piece(tmp_path):
    tokenizer = load_tokenizer(unigram_json(tmp_path / "json"))
    assert tokenizer.tokens(tokenizer.encode("the dog")) == ["▁the", "▁dog"]
    typed = tokenizer.encode("</s> the</s><pad>")
    assert not {0, 1} & {*typed}
    assert tokenizer.tokens(typed)[:5] == ["▁", "<", "/", "s", ">"]
    assert Tokenizer.load(tmp_path / "json" / "tokenizer.json").encode("</s>") == typed[:5]


def test_a_tokenizer_json_without_a_token_that_the_settings_name(tmp_path):
    folder = unigram_json(tmp_path / "json", mask_token="<mask>")
    message = r"tokenizer_config\.json names '<mask>' as mask token, which tokenizer\.json does not"
    with pytest.raises(DataError, match=message):
        load_tokenizer(folder)


def test_a_piece_that_only_looks_special_stays_a_piece(tmp_path):
    one = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, unk_token="a"))
    one.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = fill(tmp_path / "json", {"tokenizer.json": one.to_str()})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.special_ids == frozenset()
    assert tokenizer.encode("a <s>") == [1, 0]
    assert tokenizer.decode([0, 1]) == "<s> a"
