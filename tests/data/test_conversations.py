"""Conversations: their files, the answers in them, and packed rows."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import randomized

from qkv.data.batches import Batching
from qkv.data.chat import ChatTemplate
from qkv.data.conversations import (
    Answered,
    Conversation,
    check_messages,
    collate_packed,
    conversation,
    encode_answers,
    pack,
    packed_batches,
    read_conversations,
)
from qkv.data.pretraining import collate_targets
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.models.llama import Llama, LlamaConfig
from qkv.training.pretraining import causal_loss, packed_loss

TURNS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Is it blue?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Light."},
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.train_bpe([str(TALK), TURNS] * 3, 307)


def test_only_answers_and_their_ends_are_targets(tokenizer):
    template = ChatTemplate(TURNS)
    tokens, positions, targets = encode_answers(tokenizer, template, TALK, max_length=999)
    assert "".join(tokenizer.tokens(tokens)) == template.render(TALK)
    assert [tokens[i + 1] for i in positions] == targets
    assert "".join(tokenizer.tokens(targets)) == "Yes.</s>Light.</s>"
    short = encode_answers(tokenizer, template, TALK, max_length=positions[1] + 1)
    assert (len(short.tokens), short.positions) == (positions[1] + 1, positions[:1])


def test_a_template_that_rewrites_earlier_messages_is_refused(tokenizer):
    last = "{% for m in messages %}{{ m.content if loop.last else '-' }}{% endfor %}"
    with pytest.raises(ConfigError, match="writes earlier messages in another way when a later"):
        encode_answers(tokenizer, ChatTemplate(last), TALK, max_length=99)


@given(st.lists(st.integers(1, 23), min_size=1, max_size=40), st.randoms())
def test_packing_keeps_every_text_once_and_no_row_is_too_long(lengths, random):
    order = list(range(len(lengths)))
    random.shuffle(order)
    rows = pack(lengths, 23, order)
    assert sorted(i for row in rows for i in row) == sorted(order)
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert max(sums) <= 23
    # First fit: at most one row is filled to half or less.
    assert sum(2 * total <= 23 for total in sums) <= 1


def examples():
    rng = torch.Generator().manual_seed(0)
    for n in (7, 3, 11, 5, 2, 13):
        tokens = torch.randint(1, 37, (n,), generator=rng).tolist()
        positions = list(range(n // 2, n - 1))
        yield Answered(tokens, positions, [tokens[i + 1] for i in positions])


@pytest.mark.parametrize("window", [None, 3])
def test_the_loss_of_packed_rows_is_that_of_the_texts_alone(window):
    config = LlamaConfig(
        vocab_size=37, d_model=24, n_heads=6, n_kv_heads=2, d_ff=29, n_layers=2, window=window
    )
    model = randomized(Llama(config), torch.float64, std=0.3)
    texts = list(examples())
    alone = sum(causal_loss(model, collate_targets([one], pad=0)) for one in texts)
    for rows in ([texts], [texts[:4], texts[4:]], [[texts[2]], texts[:2] + texts[3:]]):
        packed = packed_loss(model, collate_packed(rows, pad=0))
        torch.testing.assert_close(packed, alone, rtol=1e-12, atol=0)
    without = collate_packed([texts], pad=0)
    seen = causal_loss(model, collate_targets([flat(without)], pad=0))
    assert (seen - alone).abs().item() > 1e-3  # without the numbers of texts, they see each other


def flat(batch):
    return Answered(batch.tokens[0].tolist(), batch.at.tolist(), batch.targets.tolist())


def test_batches_of_rows_and_their_order(tokenizer):
    texts = list(examples())
    batches = packed_batches(
        texts, length=17, pad=0, batching=Batching(max_tokens=34, seed=3, epochs=2)
    )
    seen = list(batches)
    assert sum(one.n_targets for one in seen) == 2 * sum(len(one.targets) for one in texts)
    assert all(one.tokens.shape[1] <= 17 and len(one.tokens) <= 2 for one in seen)
    assert (seen[0].texts.max(), seen[0].texts.min()) >= (1, 0)
    with pytest.raises(ConfigError, match="length = 17 with max_tokens = 13; expected a length of"):
        packed_batches(texts, length=17, pad=0, batching=Batching(max_tokens=13))


def test_files_of_conversations(tmp_path):
    file = tmp_path / "talks.jsonl"
    lines = [json.dumps({"messages": list(TALK), "id": 7}), "", json.dumps({"messages": TALK[1:3]})]
    file.write_text("\n".join(lines))
    read = read_conversations(str(file), None)
    assert read == [Conversation(TALK), Conversation(TALK[1:3])]
    assert conversation("Is it blue?", "Yes.", "Be brief.") == Conversation(TALK[:3])
    assert conversation("Is it blue?", "Yes.") == Conversation(TALK[1:3])
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "a", "response": "b"}))
    assert read_conversations(str(pairs), None) is None  # a table
    assert read_conversations("reviews", None) is None
    assert read_conversations("pairs.csv", None) is None


def test_bad_lines_of_a_file(tmp_path):
    file, good = tmp_path / "talks.jsonl", json.dumps({"messages": TALK[1:3]})
    file.write_text("\n".join([good, "{", json.dumps({"messages": []}), good]))
    with pytest.raises(DataError, match=r"2 of the 4 rows of .*talks.jsonl have") as caught:
        read_conversations(str(file), None)
    assert "line 2 is not JSON" in str(caught.value)
    array = tmp_path / "array.jsonl"
    array.write_text(json.dumps([{"messages": TALK}]))
    with pytest.raises(DataError, match="is a JSON array; expected one JSON object in each line"):
        read_conversations(str(array), None)
    problems = []
    assert len(read_conversations(str(file), problems)) == 2
    assert "2 of the 4 rows" in problems[0]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("Hi", "here: messages is 'Hi'; expected a list of messages"),
        ([], "expected a list of messages"),
        (["Hi"], "message 1 is 'Hi'; expected a role"),
        ([{"role": "bot", "content": "x"}], "expected a role (system, user, assistant)"),
        ([{"role": "user", "content": " "}], "and a content that is not empty"),
        ([{"role": "user", "content": ["x"]}], "and a content that is not empty"),
        ([TALK[1], TALK[0]], "message 2 has the role system; expected it only at the start"),
        ([TALK[1], TALK[2]], "the last message has the role assistant; expected user"),
        ([TALK[2], TALK[1]], "the first message has the role assistant; expected user"),
        ([{"role": "user", "content": "\udcff"}], "message 1 is not UTF-8"),
    ],
)
def test_messages_of_another_form(messages, message):
    with pytest.raises(DataError) as caught:
        check_messages(messages, "here", last="user")
    assert message in str(caught.value)
