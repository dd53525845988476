"""Conversations to learn from: their files, the answers in them, and packed batches."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from qkv.data.batches import Batches, Batching, Movable, targets_of_rows
from qkv.data.chat import ChatTemplate, Message
from qkv.data.rows import NO_TEXT, Row, RowError, good_rows, report_problems
from qkv.data.tables import read_text
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.json_fields import quoted, shown

ROLES = ("system", "user", "assistant")


class Conversation(NamedTuple):
    """Messages in turn: an optional system message, then questions and answers.

    Args:
        messages: objects with a role, "system", "user" or "assistant", and a content.
    """

    messages: tuple[Message, ...]


def conversation(prompt: str, response: str, system: str | None = None) -> Conversation:
    """Make a conversation of one question and its answer."""
    texts = zip(ROLES, (system, prompt, response), strict=True)
    return Conversation(
        tuple({"role": role, "content": text} for role, text in texts if text is not None)
    )


def check_messages(messages: Any, where: str, *, last: str) -> tuple[Message, ...]:
    """Return the messages of a conversation, reduced to their roles and contents.

    Args:
        messages: should be a list of {"role": ..., "content": ...}.
        where: their location, for the error.
        last: role of the last message.

    Raises:
        DataError: something else, such as an unknown role, an empty content, or another last role.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"{where}: messages is {shown(messages, 60)}; expected a list of messages")
    checked: list[Message] = []
    for number, one in enumerate(messages, start=1):
        role, content = (
            (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        )
        if role not in ROLES or not isinstance(content, str) or not content.strip():
            raise DataError(
                f"{where}: message {number} is {shown(one, 80)}; expected a role "
                f"({', '.join(ROLES)}) and a content that is not empty"
            )
        if role == "system" and number > 1:
            raise DataError(
                f"{where}: message {number} has the role system; expected it only at the start"
            )
        if NO_TEXT.search(content):
            raise DataError(
                f"{where}: message {number} is not UTF-8: {quoted(content, 60)} (another encoding, "
                "such as Latin-1?)"
            )
        checked.append({"role": role, "content": content})
    first = checked[1:2] if checked[0]["role"] == "system" else checked[:1]
    if first and first[0]["role"] != "user":
        raise DataError(
            f"{where}: the first message has the role {first[0]['role']}; expected user, perhaps "
            "after a system message"
        )
    if checked[-1]["role"] != last:
        raise DataError(
            f"{where}: the last message has the role {checked[-1]['role']}; expected {last}"
        )
    return tuple(checked)


def read_conversations(source: str, problems: list[str] | None) -> list[Conversation] | None:
    """Read JSON lines with "messages"; return None if the source is not such a file.

    Args:
        source: name of the source.
        problems: receives the report of bad lines, which are left out; if None, they are an error.

    Raises:
        DataError: the file cannot be read, or the messages of a line are invalid.
    """
    name = source.removesuffix(".gz")
    if Path(name).suffix not in (".jsonl", ".json") or not Path(source).is_file():
        return None
    lines = [
        (number, line)
        for number, line in enumerate(read_text(source, tolerant=True).split("\n"), start=1)
        if line.strip()
    ]
    if lines[0][1].lstrip().startswith("["):
        raise DataError(f"{source} is a JSON array; expected one JSON object in each line")
    if '"messages"' not in lines[0][1]:
        return None  # a table of prompts and responses
    rows, read = list[Row](), list[Conversation]()
    for number, line in lines:
        try:
            read.append(Conversation(_messages(line, f"{source}, line {number}")))
            rows.append(Row(number, {}))
        except DataError as error:
            rows.append(Row(number, {}, str(error), "no conversation"))
    good_rows(source, rows, problems)
    if problems:
        problems[:] = [report_problems(source, rows)]
    return read


def _messages(line: str, where: str) -> tuple[Message, ...]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError("not JSON", f"{where} is not JSON: {error}") from error
    found = fields.get("messages") if isinstance(fields, dict) else None
    return check_messages(found, where, last="assistant")


def refuse_special(tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
    """Refuse messages that contain the name of a special token, which could end them early.

    Raises:
        DataError: a message contains one, which the error names.
    """
    names = tokenizer.tokens(sorted(tokenizer.special_ids))
    for number, message in enumerate(messages, start=1):
        found = next((name for name in names if name in message["content"]), None)
        if found is not None:
            raise DataError(
                f"message {number} contains {quoted(found)}, a special token of the model: "
                f"{quoted(message['content'], 60)}; expected text without it"
            )


class Answered(NamedTuple):
    """A conversation as tokens.

    Args:
        tokens: token ids of the whole text.
        positions: positions whose next token belongs to an answer.
        targets: these next tokens.
    """

    tokens: list[int]
    positions: list[int]
    targets: list[int]


def encode_answers(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], *, max_length: int
) -> Answered:
    """Encode a conversation; only the tokens of the answers and their ends are targets.

    Args:
        tokenizer: the model's tokenizer.
        template: its chat template.
        messages: the conversation.
        max_length: maximum number of tokens; later ones are cut off.

    Raises:
        ConfigError: the template changes earlier messages when a later one is added, so that
            answers have no fixed place.
        DataError: a message contains the name of a special token.
    """
    refuse_special(tokenizer, messages)
    text = template.render(messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = template.render(messages[:i], reply=True)
        after = template.render(messages[: i + 1])
        if not (text.startswith(before) and text.startswith(after)):
            raise ConfigError(
                "the chat template writes earlier messages in another way when a later one is "
                "added, so answers cannot be told from questions; expected one that only appends"
            )
        spans.append((len(before), len(after.rstrip())))
    tokens, offsets = tokenizer.parse(text)
    tokens, offsets = tokens[:max_length], offsets[:max_length]
    inside = [
        i
        for i, (first, end) in enumerate(offsets)
        if i and any(end > start and first < stop for start, stop in spans)
    ]
    return Answered(tokens, [i - 1 for i in inside], [tokens[i] for i in inside])


@dataclass(frozen=True, kw_only=True)
class PackedBatch(Movable):
    """Rows that hold several texts each, one after the other.

    Args:
        tokens: token ids, the model's input.
        positions: position of each token in its own text, from 0.
        texts: number of each token's text in its row, from 1; 0 = padding.
        at: indices into `tokens.flatten()` where the model predicts.
        targets: the correct next tokens there.
    """

    tokens: Int64[Tensor, "batch length"]
    positions: Int64[Tensor, "batch length"]
    texts: Int64[Tensor, "batch length"]
    at: Int64[Tensor, " targets"]
    targets: Int64[Tensor, " targets"]

    @property
    def n_targets(self) -> int:
        """Number of targets, known from a shape without waiting for a device."""
        return len(self.targets)

    def take(self, kept: slice) -> "PackedBatch":
        """Return some of the rows, and the targets in them."""
        chosen, at = targets_of_rows(self.at, self.tokens.shape, kept)
        return PackedBatch(
            tokens=self.tokens[kept],
            positions=self.positions[kept],
            texts=self.texts[kept],
            at=at,
            targets=self.targets[chosen],
        )


def pack(lengths: Sequence[int], length: int, order: Sequence[int]) -> list[list[int]]:
    """Group texts into rows of at most `length` tokens: each joins the first row with room for it.

    First fit (Johnson 1973), over the rows that are still open.

    Args:
        lengths: number of tokens of each text, at most `length`.
        length: number of tokens of a row.
        order: the order in which texts are placed.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in order:
        row = next((k for k, left in enumerate(room) if left >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def packed_batches(
    examples: Sequence[Answered], *, length: int, pad: int, batching: Batching
) -> Batches[PackedBatch]:
    """Batch rows of packed texts; each epoch packs them anew, in another order.

    Args:
        examples: the texts.
        length: number of tokens of a row, at least that of the longest text.
        pad: id that fills rows.
        batching: `batch_size` counts rows; `max_tokens` is divided by `length`.

    Raises:
        ConfigError: `length` is above `max_tokens`.
    """
    n_rows = batching.batch_size or (batching.max_tokens or 0) // length
    if n_rows < 1:
        raise ConfigError(
            f"length = {length} with max_tokens = {batching.max_tokens}; expected a length of at "
            "most max_tokens"
        )
    lengths = [len(one.tokens) for one in examples]

    def plan(epoch: int) -> list[list[list[int]]]:
        order = batching.rng(epoch).permutation(len(examples)).tolist()
        rows = pack(lengths, length, order)
        return [rows[first : first + n_rows] for first in range(0, len(rows), n_rows)]

    def make(rows: list[list[int]], _: np.random.Generator) -> PackedBatch:
        return collate_packed([[examples[i] for i in row] for row in rows], pad=pad)

    return Batches(batching.epoch_numbers, plan, make, seed=batching.seed)


def collate_packed(rows: Sequence[Sequence[Answered]], *, pad: int) -> PackedBatch:
    """Make a batch of rows that hold several texts each."""
    width = max(sum(len(one.tokens) for one in row) for row in rows)
    tokens = torch.full((len(rows), width), pad)
    positions, texts = torch.zeros_like(tokens), torch.zeros_like(tokens)
    at, targets = list[int](), list[int]()
    for i, row in enumerate(rows):
        begin = 0
        for number, one in enumerate(row, start=1):
            here = slice(begin, begin + len(one.tokens))
            tokens[i, here] = torch.tensor(one.tokens)
            positions[i, here] = torch.arange(len(one.tokens))
            texts[i, here] = number
            at += [i * width + begin + place for place in one.positions]
            targets += one.targets
            begin = here.stop
    return PackedBatch(
        tokens=tokens,
        positions=positions,
        texts=texts,
        at=torch.tensor(at),
        targets=torch.tensor(targets),
    )
