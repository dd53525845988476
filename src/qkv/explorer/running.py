"""One model behind a widget: it computes records of the inputs that are typed there."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors.numpy import save as save_tensors

from qkv.errors import ConfigError, DataError
from qkv.explorer.changes import UNCHANGED, Changes
from qkv.explorer.engine import KINDS, read_picture
from qkv.explorer.heads import one_head
from qkv.explorer.look import Looked, look, make_view
from qkv.explorer.parts import as_array
from qkv.json_fields import check_kinds, shown

KEPT = 3  # records whose heads can be requested
Heard = Callable[[str, Mapping[str, Any]], None]  # an event and its data


@dataclass
class Runner:
    """A pipeline, and the latest records that it made.

    Args:
        pipeline: the pipeline.
        task: name of its task.
        name: name of the model.
        inputs: the first input, by role.
        kept: the latest records, by id.
    """

    pipeline: Any
    task: str
    name: str
    inputs: Mapping[str, Any]
    kept: "OrderedDict[str, Looked]" = field(default_factory=OrderedDict, repr=False)

    @property
    def menu(self) -> list[dict[str, Any]]:
        """The entry of the model in the widget's form."""
        hidden = ("new_tokens", "picture")
        example = {role: text for role, text in self.inputs.items() if role not in hidden}
        example |= {"image": ""} if self.task == "recognize" else {}
        return [{"name": self.name, "task": self.task, "about": "", "weak": "", "example": example}]

    def first(self, *, effects: bool = False) -> Looked:
        """Look at the first input."""
        return self._look("first", self.inputs, UNCHANGED, effects, lambda event, data: None)

    def look(self, raw: Mapping[str, Any], heard: Heard) -> tuple[str, Looked]:
        """Look at an input of the widget; return the record with its id.

        Args:
            raw: the request, as the page sends it to a server.
            heard: called with each event.

        Raises:
            ConfigError: a field is missing or wrong, or a head does not exist.
            DataError: the input does not fit the task.
        """
        check_kinds(raw, KINDS)
        given = raw.get("inputs", {})
        inputs = {**self.inputs, **{role: given[role] for role in self.inputs if role in given}}
        if given.get("image"):
            inputs["picture"] = read_picture(given["image"])
            inputs["text"] = given.get("text", "image")
        ablate = tuple((i, head) for i, head in raw.get("ablate", []))
        changes = Changes(ablate=ablate, mask=raw.get("mask", "own"))
        key = secrets.token_hex(8)
        return key, self._look(key, inputs, changes, raw.get("effects", False), heard)

    def head(self, where: Any) -> bytes:
        """Return one head of a long input, as a safetensors file.

        Args:
            where: id of the record, number of the attention module, number of the head.

        Raises:
            ConfigError: there is no such head.
            DataError: the record is no longer kept.
        """
        if not isinstance(where, list) or len(where) != 3 or where[0] not in self.kept:
            raise DataError(f"no head {shown(where)}; expected one of the latest records")
        key, index, head = where
        if type(index) is not int or type(head) is not int:
            raise ConfigError(f"the head {shown(where)}; expected two whole numbers")
        found = one_head(self.kept[key].layers, index, head)
        return save_tensors({name: as_array(name, one) for name, one in found.items()})

    def _look(
        self, key: str, inputs: Mapping[str, Any], changes: Changes, effects: bool, heard: Heard
    ) -> Looked:
        view = make_view(
            self.pipeline, self.task, inputs, told=lambda text: heard("token", {"text": text})
        )
        looked = look(
            self.pipeline.model,
            view,
            name=self.name,
            changes=changes,
            effects=effects,
            told=lambda name: heard("effect", {"name": name}),
        )
        self.kept[key] = looked
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return looked
