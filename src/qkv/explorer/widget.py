"""The explorer's widget for notebooks; it needs anywidget."""

from typing import Any

import anywidget
import traitlets

from qkv.errors import QKVError
from qkv.explorer.record import Record
from qkv.explorer.running import Runner
from qkv.explorer.saved import PAGE
from qkv.explorer.static import Shown
from qkv.json_fields import shown as as_shown

WIDGET = PAGE.with_name("widget.js")  # built from explorer/


class ExplorerWidget(Shown, anywidget.AnyWidget):
    """A record in a notebook: heads, weights, their arithmetic, predictions.

    The kernel is the server: if there is a model, its answers are sent as messages. The view in the
    browser is not stored in the notebook.

    Args:
        record: the record.
        at: the attention module in focus, by its number in the record, and the head.
        view: what is selected first, as in the address of the page; "" is the page's own choice.
        runner: the model, for other inputs and for changes; None: the record alone.
    """

    _esm = WIDGET.read_text(encoding="utf-8")
    content = traitlets.Bytes().tag(sync=True)
    menu = traitlets.List().tag(sync=True)
    view = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, record: Record, at: tuple[int, int], *, view: str = "", runner: Runner | None = None
    ):
        menu = [] if runner is None else runner.menu
        super().__init__(content=record.encode(), menu=menu, view=view)
        self.record, self.at, self._runner = record, at, runner
        self.on_msg(self._receive)

    def _receive(self, _: Any, content: Any, _buffers: Any) -> None:
        """Answer a request: {id, look: {...}} or {id, head: [record, module, head]}."""
        to = content.get("id") if isinstance(content, dict) else None
        try:
            if self._runner is None or not isinstance(content, dict):
                raise ValueError(f"a message {as_shown(content)}; expected none")
            if "head" in content:
                data, file = {}, self._runner.head(content["head"])
            else:
                key, looked = self._runner.look(
                    content.get("look") or {},
                    lambda event, data: self.send({"to": to, "event": event, "data": data}),
                )
                self.record = looked.record
                data, file = {"id": key}, looked.record.encode()
            self.send({"to": to, "event": "record", "data": data}, [file])
        except Exception as error:  # errors are shown in the widget
            known = isinstance(error, QKVError)
            said = str(error) if known else f"the model failed: {type(error).__name__}: {error}"
            self.send({"to": to, "event": "error", "data": {"error": said}})
