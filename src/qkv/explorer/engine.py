"""The models behind the explorer's server, and the records that it has made.

One thread owns the models; requests wait for it in a queue of bounded length.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from qkv.data.images import pillow_modules
from qkv.errors import BusyError, ConfigError, DataError
from qkv.explorer.changes import MASKS, UNCHANGED, Changes
from qkv.explorer.look import Looked, look, make_view
from qkv.explorer.schema import PAIR
from qkv.explorer.view import NEW_TOKENS
from qkv.explorer.views import VIEWS
from qkv.json_fields import FLAG, TEXT, check_kinds, either, list_of, object_of, shown
from qkv.tasks.pipeline import check_strings
from qkv.tasks.task import find_task, task_of
from qkv.web.content import LONGEST_TEXT, decode_picture
from qkv.zoo.catalog import ZOO, list_zoo

RECORDS, MODELS, WAITING = 4, 2, 8  # numbers kept in memory
FIRST = "sentiment-small"  # in the menu: it answers at once
KINDS = {
    "model": TEXT,
    "inputs": object_of(TEXT),
    "ablate": list_of(PAIR),
    "mask": either(*MASKS),
    "effects": FLAG,
}
EXAMPLES: dict[str, dict[str, str]] = {
    "classify": {"text": "The film was a wonderful surprise, although it began badly."},
    "answer": {
        "text": "Who wrote the first program?",
        "context": "Ada Lovelace was a mathematician. The first program was written by Ada "
        "Lovelace in 1843, for a machine that was never built.",
    },
    "tag": {"text": "Ada Lovelace lived in London in 1843."},
    "translate": {"text": "I have never seen such a beautiful house."},
    "summarize": {
        "text": "Walk through the list from the end to the beginning, and exchange two neighbors "
        "if the first is larger than the second. Repeat this until nothing was exchanged. Return "
        "the sorted list."
    },
    "dates": {"text": "12. März 2021"},
    "generate": {"text": "The Eiffel Tower is in the city of"},
    "chat": {"text": "The Eiffel Tower is in the city of"},
    "recognize": {"text": "a drawn seven", "image": ""},
    "embed": {"text": "The cat sleeps on the sofa.", "second": "A kitten is lying on the couch."},
}
OWN_EXAMPLES = {
    "translator-de-en": {"text": "Ich habe noch nie ein so schönes Haus gesehen."},
    "generator": {"text": "Return the"},
}


class Stopped(Exception):  # noqa: N818 - nobody waits for the answer any more
    """The client has gone."""


Heard = Callable[[str, Mapping[str, Any]], None]  # an event and its data


@dataclass(frozen=True)
class Asked:
    """A request, after its fields have been checked.

    Args:
        model: name of a model in the menu.
        inputs: the input, by role.
        changes: what is changed in the model.
        effects: whether to measure the effect of each head.
    """

    model: str
    inputs: Mapping[str, Any]
    changes: Changes
    effects: bool


class Engine:
    """Models by name, loaded when they are first needed, and the latest records by id.

    Args:
        own: models listed before the shipped ones: folders, shipped models or ids of the Hub.
        load: loads the pipeline of a task for a model.
    """

    def __init__(self, own: Sequence[str], load: Callable[[str, str], Any] | None = None):
        installed = [row["model"] for row in list_zoo() if row["installed"] == "yes"]
        self.tasks: dict[str, str] = {}
        first = [FIRST] if FIRST in installed else []
        for name in dict.fromkeys((*own, *first, *installed)):
            task = task_of(name)
            if task in VIEWS:
                self.tasks[name] = task
            elif name in own:
                raise ConfigError(f"the explorer has no view of {name}, a model of the task {task}")
        self._load = load or (lambda task, name: find_task(task).pipeline.load(name))
        self._pipelines: OrderedDict[str, Any] = OrderedDict()
        self._records: OrderedDict[str, Looked] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "qkv-explorer")
        self._waiting = threading.BoundedSemaphore(WAITING)

    def menu(self) -> list[dict[str, Any]]:
        """Return one entry per model."""
        return [
            {
                "name": name,
                "task": task,
                "about": ZOO[name].about if name in ZOO else "",
                "weak": ZOO[name].weak if name in ZOO else "",
                "example": OWN_EXAMPLES.get(name, EXAMPLES[task]),
            }
            for name, task in self.tasks.items()
        ]

    def read(self, raw: Mapping[str, Any]) -> Asked:
        """Check the fields of a request.

        Models are from the menu, and images are sent as content: no name from a request is used as
        a path.

        Raises:
            ConfigError: a field is missing or wrong.
            DataError: a text is too long, or the image cannot be read.
        """
        check_kinds(raw, KINDS)
        name, given = raw.get("model"), raw.get("inputs")
        if name not in self.tasks or given is None:
            raise ConfigError(f"model = {shown(name)}; expected one of {', '.join(self.tasks)}")
        task = self.tasks[name]
        roles = {"text", *EXAMPLES[task], *(("second",) if task == "classify" else ())}
        inputs: dict[str, Any] = {role: text for role, text in given.items() if role in roles}
        if "text" not in inputs:
            raise ConfigError("inputs without text; expected one")
        check_strings([text for role, text in inputs.items() if role != "image"])
        for role, text in inputs.items():
            if role != "image" and len(text) > LONGEST_TEXT:
                raise DataError(
                    f"{role} has {len(text):,} characters; expected at most {LONGEST_TEXT:,}"
                )
        if task == "recognize":
            inputs["picture"] = read_picture(inputs.pop("image", ""))
        if task in ("generate", "chat"):
            inputs["new_tokens"] = str(NEW_TOKENS)
        ablate = tuple((i, head) for i, head in raw.get("ablate", []))
        changes = Changes(ablate=ablate, mask=raw.get("mask", "own"))
        return Asked(name, inputs, changes, raw.get("effects", False))

    def submit(self, asked: Asked, heard: Heard) -> "Future[str]":
        """Queue a request; the result is the id of its record.

        Args:
            asked: the request.
            heard: called in the engine's thread with each event; an exception ends the request.

        Raises:
            BusyError: too many requests are waiting.
        """
        if not self._waiting.acquire(blocking=False):
            raise BusyError(f"{WAITING} requests are waiting; try again later")
        future = self._thread.submit(self._look, asked, heard)
        future.add_done_callback(lambda _: self._waiting.release())
        return future

    def record(self, key: str) -> Looked | None:
        """Return a record by its id; None if it is no longer kept."""
        return self._records.get(key)

    def close(self) -> None:
        """Wait for the running request, and drop the others."""
        self._thread.shutdown(cancel_futures=True)

    def _look(self, asked: Asked, heard: Heard) -> str:
        heard("start", {"model": asked.model})
        pipeline = self._pipeline(asked.model)
        told = lambda text: heard("token", {"text": text})  # noqa: E731 - shorter than a function
        view = make_view(pipeline, self.tasks[asked.model], asked.inputs, told=told)
        looked = look(
            pipeline.model,
            view,
            name=asked.model,
            changes=asked.changes or UNCHANGED,
            effects=asked.effects,
            told=lambda name: heard("effect", {"name": name}),
        )
        key = secrets.token_hex(16)
        self._records[key] = looked
        while len(self._records) > RECORDS:
            self._records.popitem(last=False)
        return key

    def _pipeline(self, name: str) -> Any:
        if name not in self._pipelines:
            self._pipelines[name] = self._load(self.tasks[name], name)
        self._pipelines.move_to_end(name)
        while len(self._pipelines) > MODELS:
            self._pipelines.popitem(last=False)
        return self._pipelines[name]


def read_picture(content: str) -> Any:
    """Return an image from base64; without content, a drawn digit.

    Raises:
        DataError: it is not an image, or has too many pixels.
    """
    if not content:
        pillow = pillow_modules()
        image = pillow.Image.new("L", (60, 60), 255)
        pillow.ImageDraw.Draw(image).line([(20, 15), (40, 15), (28, 48)], fill=0, width=5)
        return image
    return decode_picture(content)
