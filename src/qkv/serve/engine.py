"""One model and the thread that owns it: a running batch of texts, and calls for other tasks.

A causal language model generates by continuous batching (`qkv.generation.scheduler`). A call of a
task, such as a classification, is batched with waiting calls that have the same options.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qkv.errors import BusyError
from qkv.generation.request import Request
from qkv.generation.scheduler import Scheduler
from qkv.models.causal import CausalLM
from qkv.tasks.pretrained import Loaded
from qkv.tasks.streams import quiet

ROWS, WAITING = 16, 256  # of a batch, and of each queue
TOGETHER = 256  # inputs of one call, so that other requests get their turn


@dataclass(eq=False)
class Call:
    """A call of a model: inputs that may share a batch with those of other requests.

    Args:
        key: calls with equal keys are batched; a call with None runs alone.
        inputs: the inputs.
        function: returns a result for each input; runs in the engine's thread.
    """

    key: Hashable
    inputs: Sequence[Any]
    function: Callable[[Sequence[Any]], Sequence[Any]]
    future: "Future[Sequence[Any]]" = field(default_factory=Future[Sequence[Any]], init=False)


class Engine:
    """A model, loaded when it is first needed, and its thread.

    Args:
        name: name of the model.
        load: loads the model, in the engine's thread.
        max_rows: rows of the running batch of a language model.
        max_waiting: requests that may wait in each queue; further requests are rejected.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Loaded],
        *,
        max_rows: int = ROWS,
        max_waiting: int = WAITING,
    ):
        self.name, self._load = name, load
        self._max_rows, self._max_waiting = max_rows, max_waiting
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._loaded: Future[Loaded] = Future()
        self._scheduler: Scheduler | None = None

    @property
    def healthy(self) -> bool:
        """Whether the engine can still answer."""
        failed = self._loaded.done() and self._loaded.exception() is not None
        thread = self._thread
        return not (self._stopped or failed) and (thread is None or thread.is_alive())

    @property
    def n_waiting(self) -> int:
        """Number of calls and prompts that wait."""
        return len(self._calls) + (self._scheduler.n_waiting if self._scheduler else 0)

    @property
    def n_running(self) -> int:
        """Number of answers that are being generated."""
        return self._scheduler.n_running if self._scheduler else 0

    def start(self) -> "Future[Loaded]":
        """Start the thread, unless it runs, and return the future of its model."""
        with self._changed:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(
                    target=self._run, name=f"qkv-{self.name}", daemon=True
                )
                self._thread.start()
        return self._loaded

    def generate(self, request: Request) -> None:
        """Add a request to the running batch of a language model that is loaded.

        Raises:
            BusyError: too many are waiting, or the engine was stopped.
        """
        assert self._scheduler is not None, "the model generates no text"
        with self._changed:
            self._check_running()
            self._scheduler.submit(request)
            self._changed.notify()

    def call(self, call: Call) -> "Future[Sequence[Any]]":
        """Queue a call; cancelling its future removes it from the queue.

        Raises:
            BusyError: too many are waiting, or the engine was stopped.
        """
        with self._changed:
            self._check_running()
            if len(self._calls) >= self._max_waiting:
                self._calls = deque(one for one in self._calls if not one.future.cancelled())
            if len(self._calls) >= self._max_waiting:
                raise BusyError(
                    f"{self._max_waiting} requests wait for {self.name}; expected room for another:"
                    " try again later"
                )
            self._calls.append(call)
            self._changed.notify()
        self.start()
        return call.future

    def stop(self) -> None:
        """Answer waiting and running requests with an error, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _check_running(self) -> None:
        if self._stopped:
            raise BusyError(f"{self.name} is not served any more: the server is stopping")

    def _run(self) -> None:
        why: Exception = BusyError("the server is stopping")
        try:
            with quiet():
                self._prepare()
                self._work()
        except Exception as error:  # waiting requests must be told
            why = error
        with self._changed:
            self._stopped = True
            calls, self._calls = list(self._calls), deque()
        for one in calls:
            if one.future.set_running_or_notify_cancel():
                one.future.set_exception(why)
        if self._scheduler is not None:
            self._scheduler.end(why)

    def _prepare(self) -> None:
        """Load the model."""
        try:
            loaded = self._load()
            model = loaded.model
            if isinstance(model, CausalLM) and not isinstance(model.head, nn.Identity):
                self._scheduler = Scheduler(
                    model.eval(),
                    max_rows=self._max_rows,
                    max_waiting=self._max_waiting,
                    device=next(model.parameters()).device,
                )
        except Exception as error:
            self._loaded.set_exception(error)
            raise
        self._loaded.set_result(loaded)

    def _work(self) -> None:
        """Alternate between calls that can be batched, and steps of the running batch."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._generates or self._stopped)
                if self._stopped:
                    return
                calls = self._together()
            if calls:
                answer(calls)
            if self._scheduler is not None and self._scheduler.busy:
                self._scheduler.step()

    @property
    def _generates(self) -> bool:
        return self._scheduler is not None and self._scheduler.busy

    def _together(self) -> list[Call]:
        """Take the first call, and all that can be batched with it."""
        calls, others, room = list[Call](), deque[Call](), TOGETHER
        for one in self._calls:
            fits = not calls or (
                one.key is not None and one.key == calls[0].key and len(one.inputs) <= room
            )
            if not fits:
                others.append(one)
            elif one.future.set_running_or_notify_cancel():
                calls.append(one)
                room -= len(one.inputs)
        self._calls = others
        return calls


def answer(calls: Sequence[Call]) -> None:
    """Run calls as a batch; if that fails, run them one by one, to isolate the error."""
    inputs = [one for call in calls for one in call.inputs]
    try:
        results = calls[0].function(inputs)
    except Exception as error:
        if len(calls) == 1:
            calls[0].future.set_exception(error)
            return
        for one in calls:
            answer([one])
        return
    first = 0
    for one in calls:
        last = first + len(one.inputs)
        one.future.set_result(results[first:last])
        first = last
