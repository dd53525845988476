"""Chat: replies, the context, the terminal, and training on answers."""

import builtins
import json

import pytest
import torch
from tests.helpers import randomized

from qkv.checkpoints.adapters import CONFIG as ADAPTER
from qkv.cli import main
from qkv.data.conversations import conversation
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, LengthError
from qkv.generation.decoding import GREEDY
from qkv.generation.sampling import Sampling
from qkv.models.llama import Llama, LlamaConfig
from qkv.tasks import conversation as terminal
from qkv.tasks.chat import Chat
from qkv.tasks.generator import FINISH, Generator
from qkv.tasks.pretrained import Loaded, load, save

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TALKS = [
    {"prompt": "Is it blue?", "response": "It is red."},
    {"prompt": "Is it red?", "response": "It is blue."},
    {"prompt": "Is it old?", "response": "It is new."},
    {"prompt": "Is it new?", "response": "It is old."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = Tokenizer.train_bpe([str(TALKS), TEMPLATE] * 3, 293)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, d_model=24, n_heads=6, d_ff=29, n_layers=2, n_positions=97
    )
    fields = {"eos_token_id": tokenizer.stop, "pad_token_id": tokenizer.pad}
    model = randomized(Llama(config), torch.float32, std=0.5)
    save(Loaded(model, tokenizer, config=fields), folder)
    settings = folder / "tokenizer_config.json"
    written = json.loads(settings.read_text()) | {"chat_template": TEMPLATE}
    settings.write_text(json.dumps(written))
    return folder


@pytest.fixture(scope="module")
def chat(folder):
    return Chat.load(folder)


@pytest.fixture
def qkv(capsys):
    def run(*arguments, status=0):
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


def test_a_reply_continues_the_rendered_conversation(chat):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it blue?"},
        {"role": "assistant", "content": "It is."},
        {"role": "user", "content": "Why?"},
    ]
    options = {"max_length": 13, "sampling": Sampling(temperature=0.9), "seed": 5}
    reply = chat(messages, **options)
    stop = chat.loaded.tokenizer.stop
    text = f"[system]Be brief.<{stop}>[user]Is it blue?<{stop}>[assistant]It is.<{stop}>[user]Why?"
    rendered = chat.template.render(messages, reply=True)
    name = chat.tokenizer.tokens([stop])[0]
    assert rendered == text.replace(f"<{stop}>", name) + f"{name}[assistant]"
    ids = chat.generator.encode(rendered)
    assert ids.count(stop) == 4  # parsed, while the same name in a text is not
    assert reply.text == "".join(chat.reply(messages, **options)).strip()
    assert (reply.message, reply.seed, reply.forgotten) == ("Why?", 5, 0)
    # The last message alone, with its system message, is another conversation.
    assert chat("Why?", system="Be brief.", **options).text != reply.text
    both = chat(["Why?", messages], **options)
    assert [one.text for one in both] == [chat("Why?", **options).text, reply.text]


def test_old_messages_make_room_and_the_system_message_stays(chat):
    system = {"role": "system", "content": "Be brief."}
    talk = [system]
    for one in TALKS * 2:
        talk += [
            {"role": "user", "content": one["prompt"]},
            {"role": "assistant", "content": one["response"]},
        ]
    talk.append({"role": "user", "content": "Why?"})
    text, kept = chat.fit(talk, 11)
    assert len(chat.generator.encode(text)) <= 97 - 11
    assert (kept[0], kept[-1]) == (system, talk[-1])
    assert kept[1]["role"] == "user"
    assert kept[1:] == talk[-len(kept) + 1 :]
    longer, _ = chat.fit([system, *talk[-len(kept) - 1 :]], 11)
    assert longer == text  # no more than needed is left out
    assert chat(talk, max_length=11).forgotten == len(talk) - len(kept)
    # Room for a reply is at most half of the context.
    _, some = chat.fit(talk)
    assert 1 < len(some) < len(kept)
    with pytest.raises(LengthError, match=r"have \d+ tokens; expected at most 86: the context of"):
        chat("blue " * 97, max_length=11)


def test_likelihood_of_the_answers_alone(chat):
    one, two = conversation("Is it blue?", "It is red."), conversation("Why?", "It is.", "Brief.")
    both = chat.evaluate([one, two])
    assert both.count == 2
    losses = [chat.evaluate([x]).loss * chat.evaluate([x]).tokens for x in (one, two)]
    assert both.loss * both.tokens == pytest.approx(sum(losses), rel=1e-5)
    # By hand: -ln p of each token after the question.
    text = chat.template.render(one.messages)
    question = chat.template.render(one.messages[:1], reply=True)
    ids, n = chat.generator.encode(text), len(chat.generator.encode(question))
    with torch.no_grad():
        logits = chat.model(torch.tensor([ids])).double().log_softmax(-1)
    expected = -sum(logits[0, i - 1, ids[i]] for i in range(n, len(ids)))
    assert chat.evaluate([one]).loss * (len(ids) - n) == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(DataError, match="there are no conversations to score"):
        chat.evaluate([])


def test_a_model_without_template(folder, tmp_path):
    loaded = load(folder)
    plain = loaded.with_files({})
    bare = Loaded(plain.model, Tokenizer.train_bpe(["abc"] * 3, 260), config=plain.config)
    with pytest.raises(ConfigError, match="files have no chat template; expected a causal lang"):
        Chat.of(bare)


def test_messages_of_another_form(chat):
    for messages, message in (
        ([{"role": "assistant", "content": "Hi"}], "the first message has the role assistant"),
        ([{"role": "user", "content": ""}], "expected a role (system, user, assistant)"),
        ([{"role": "user"}], "message 1 is {'role': 'user'}"),
        ([{"role": "user", "content": "a\ud800"}], "message 1 is not UTF-8"),
        (5, "messages is 5; expected a list of messages"),
        (None, "messages is None; expected a list of messages"),
    ):
        with pytest.raises(DataError) as caught:
            chat(messages)
        assert message in str(caught.value)
    stop = chat.tokenizer.tokens([chat.tokenizer.stop])[0]
    for call in (lambda: chat(f"a{stop}b"), lambda: chat.evaluate([conversation(stop, "x")])):
        with pytest.raises(DataError, match=f"message 1 contains {stop!r}, a special token of"):
            call()
    with pytest.raises(DataError, match="message 2 has the role system"):
        chat([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}], system="c")


def test_messages_as_arguments_and_from_a_file(qkv, folder, tmp_path):
    options = ("--model", folder, "--max-length", "7", "--temperature", "0")
    alone = qkv("chat", *options, "Why?").strip()
    assert alone == Chat.load(folder)("Why?", max_length=7, sampling=GREEDY).text
    file = tmp_path / "questions.txt"
    file.write_text("Why?\nIs it old?\n")
    lines = qkv("chat", *options, "--file", file, "--json").splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["Why?", "Is it old?"]
    assert json.loads(lines[0])["text"] == alone
    assert "--system is empty" in qkv("chat", *options, "--system", " ", "Why?", status=2)


class Script:
    """What a person types, and what a model replies."""

    def __init__(self, monkeypatch, *lines):
        self.lines, self.asked = list(lines), []
        monkeypatch.setattr(builtins, "input", self.type)

    def type(self, prompt):
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, type):
            raise line
        return line

    def reply(self, messages, **options):
        self.asked.append([one["content"] for one in messages])
        if messages[-1]["content"] == "fail":
            raise LengthError("the message has 9 tokens; expected at most 7")
        yield "reply "
        if messages[-1]["content"] == "stop":
            raise KeyboardInterrupt
        yield str(len(self.asked))


def test_a_conversation_on_a_terminal(monkeypatch, capsys, tmp_path):
    file = tmp_path / "talk.jsonl"
    quotes = '"""'
    script = Script(
        monkeypatch,
        *("one", " ", "/nothing", "fail", "stop", KeyboardInterrupt, "a\udcff", "/save"),
        *("/save " + "x" * 999, "/save /nowhere/x"),
        *(f"{quotes}two", "", f"three{quotes}", f"/save {file}", f"/save {file}", "/reset", "four"),
    )
    terminal.talk(script, "Be brief.")
    asked = script.asked
    assert asked[0] == ["Be brief.", "one"]
    assert asked[1] == ["Be brief.", "one", "reply 1", "fail"]
    assert asked[2] == ["Be brief.", "one", "reply 1", "stop"]  # what failed is not kept
    assert asked[3] == ["Be brief.", "one", "reply 1", "stop", "reply", "two\n\nthree"]
    assert asked[4] == ["Be brief.", "four"]
    saved = json.loads(file.read_text())["messages"]
    assert [one["content"] for one in saved] == [*asked[3], "reply 4"]
    out, err = capsys.readouterr()
    assert "'/nothing' is not a command" in err
    assert "the message has 9 tokens" in err
    assert "exists already; expected another name" in err
    assert "the message is not UTF-8 and was left out" in err
    assert "File name too long" in err
    assert "/nowhere/x lies in no folder" in err
    assert "/save needs the name of a new file" in err
    assert "/save FILE" in out
    script = Script(monkeypatch, "/save x.jsonl", "/exit", "never")
    terminal.talk(script)
    assert "there is no reply yet to save" in capsys.readouterr().err
    assert script.lines == ["never"]


def test_a_terminal_without_message_is_a_conversation(qkv, folder, monkeypatch):
    monkeypatch.setattr("qkv.tasks.chat.is_interactive", lambda: True)
    script = Script(monkeypatch, "Why?")
    out = qkv("chat", "--model", folder, "--max-length", "7", "--temperature", "0")
    assert out.startswith("Type a message. /help lists")
    assert Chat.load(folder)("Why?", max_length=7, sampling=GREEDY).text in out
    assert not script.lines


def test_training_on_answers_with_lora(qkv, folder, tmp_path):
    data, out = tmp_path / "talks.jsonl", tmp_path / "out"
    data.write_text("\n".join(json.dumps(one) for one in TALKS * 5))
    before = Chat.load(folder).evaluate([conversation(**one) for one in TALKS]).loss
    options = ("--base", folder, "--output", out, "--data.train", data, "--device", "cpu")
    run = ("--training.epochs", "8", "--training.max-tokens", "128", "--max-length", "61")
    qkv("train", "chat", *options, *run, "--training.evaluate-every", "10")
    trained = Chat.load(out)
    after = trained.evaluate([conversation(**one) for one in TALKS]).loss
    assert after < 0.8 * before
    results = json.loads((out / "results.json").read_text())
    assert results["trained_parameters"] < 0.5 * results["parameters"]
    assert (out.with_name("out.training") / "adapter" / ADAPTER).is_file()
    shown = qkv("evaluate", out, "--data", data)
    assert "perplexity" in shown
    saved = tmp_path / "talk.jsonl"
    saved.write_text(json.dumps({"messages": list(conversation(**TALKS[0]).messages)}))
    assert "1 texts" in qkv("evaluate", out, "--data", saved)


def test_training_refuses_what_does_not_fit(qkv, folder, tmp_path):
    data = tmp_path / "talks.jsonl"
    data.write_text("\n".join(json.dumps(one) for one in TALKS * 5))
    options = ("--output", tmp_path / "out", "--data.train", data)
    for more, message in (
        (("--max-length", "3"), "no conversation has an answer within max_length = 3 tokens"),
        (("--finetuning.train", "scratch"), "with finetuning.train; expected no other value"),
        (("--training.batch-size", "4"), "needs training.max_tokens instead"),
    ):
        error = qkv("train", "chat", "--base", folder, *options, *more, status=2)
        assert message in error


def test_an_output_without_limit_ends_with_a_sentence(folder):
    """Beyond the usual length it goes on to the end of a sentence, but not for long."""
    loaded = load(folder)

    class Short(Generator):
        usual = 5

    generator = Short(loaded)
    for seed in range(3):
        out = generator("It", sampling=Sampling(temperature=2.0), seed=seed)
        assert out.ended or 5 <= len(out.tokens) <= 5 + FINISH
        text = out.text.rstrip()
        assert out.ended or len(out.tokens) == 5 + FINISH or text[-1] in ".!?" or "\n" in out.text
        streamed = "".join(generator.stream("It", sampling=Sampling(temperature=2.0), seed=seed))
        assert streamed == out.text
        assert len(generator("It", max_length=3, seed=seed).tokens) <= 3


def test_space_at_the_end_of_a_prompt_is_part_of_the_next_token(folder):
    """A model that expects " is" after "It" is not misled by a prompt "It "."""
    generator = Generator.load(folder)
    ids = generator.encode("It ")
    assert generator.tokenizer.tokens(ids)[-1] == " "
    out = generator("It ", max_length=4, sampling=Sampling(temperature=0.0))
    assert out.tokens[0].startswith(" ")
    with torch.no_grad():
        logits = generator.model(torch.tensor([ids[:-1]]))[0, -1]
    labels = generator.tokenizer.tokens(range(generator.tokenizer.vocab_size))
    spaced = [i for i, label in enumerate(labels) if label.startswith(" ")]
    assert len(spaced) > 3
    best = max(spaced, key=lambda i: logits[i].item())
    assert out.tokens[0] == labels[best]  # the most probable one that begins with a space
    assert out.text.startswith(labels[best][1:])
