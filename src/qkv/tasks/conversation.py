"""A conversation on a terminal, with a chat model."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from qkv.data.chat import Message
from qkv.data.rows import NO_TEXT
from qkv.errors import QKVError
from qkv.files import write_atomically
from qkv.tasks.streams import complain

QUOTES = '"""'
HELP = f"""\
  {QUOTES}          begins and ends a message of several lines
  /reset       forget the conversation
  /save FILE   write the conversation as a line of JSON, which qkv train chat reads
  /help        show this
  /exit        leave (or Ctrl-D)
Ctrl-C stops a reply."""


class Talker(Protocol):
    """An object that replies to a conversation."""

    def reply(self, messages: Sequence[Message], **options: Any) -> Iterator[str]:
        """Yield the reply in pieces."""
        ...


def talk(chat: Talker, system: str | None = None, **options: Any) -> None:
    """Read messages from the terminal and print the replies as they are generated.

    Args:
        chat: replies to a conversation.
        system: the system message.
        options: options of `reply`.
    """
    with suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited, and earlier ones recalled
    print("Type a message. /help lists what else you can type; Ctrl-D leaves.")
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    messages = list(start)
    while (message := read_message()) is not None:
        if not message.strip():
            continue
        if NO_TEXT.search(message):
            complain("the message is not UTF-8 and was left out (another encoding?)")
            continue
        if message.startswith("/"):
            if message.strip() == "/exit":
                return
            messages = command(message.strip(), messages, start)
            continue
        question: Message = {"role": "user", "content": message}
        try:
            answer = say(chat.reply([*messages, question], **options))
        except (QKVError, OSError) as error:
            complain(f"error: {error}")
            continue
        if answer:
            messages += [question, {"role": "assistant", "content": answer}]


def read_message() -> str | None:
    """Read a message from the terminal, of one line or between triple quotes; None at the end."""
    try:
        line = input("> ")
        if not line.startswith(QUOTES):
            return line
        lines = [line.removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(input("... "))
        return "\n".join(lines).rstrip().removesuffix(QUOTES).strip("\n")
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:  # Ctrl-C at the prompt discards what was typed
        print()
        return ""


def say(pieces: Iterator[str]) -> str:
    """Print a reply as it is generated, and return it; Ctrl-C ends it early."""
    said: list[str] = []
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            said.append(piece)
    except KeyboardInterrupt:
        print(" ...", end="")
    print("\n")
    return "".join(said).strip()


def command(line: str, messages: list[Message], start: list[Message]) -> list[Message]:
    """Execute a line that begins with /, and return the messages after it.

    Args:
        line: such as "/save talk.jsonl".
        messages: the conversation so far.
        start: how a conversation begins.
    """
    name, _, argument = line.partition(" ")
    if name == "/reset":
        print("The conversation is forgotten.\n")
        return list(start)
    if name == "/save":
        save(argument.strip(), messages)
    else:
        if name != "/help":
            complain(f"{line!r} is not a command")
        print(HELP + "\n")
    return messages


def save(name: str, messages: Sequence[Message]) -> None:
    """Write a conversation as one line of JSON; an existing file is not replaced."""
    if not name:
        complain("/save needs the name of a new file, such as /save talk.jsonl")
        return
    if not any(one["role"] == "assistant" for one in messages):
        complain("there is no reply yet to save")
        return
    try:
        path = Path(name).expanduser()
        if path.exists() or not path.parent.is_dir():
            why = "exists already" if path.exists() else f"lies in no folder: {path.parent}"
            complain(f"{path} {why}; expected another name")
            return
        line = json.dumps({"messages": list(messages)}, ensure_ascii=False)
        write_atomically(path, line + "\n")
    except (OSError, RuntimeError) as error:  # RuntimeError: no such home folder
        complain(f"error: {error}")
        return
    print(f"{path} has the conversation.\n")
