"""Continuous batching: requests join and leave a running batch between two steps.

Yu et al. 2022, "Orca: a distributed serving system for Transformer-based generative models",
section 3 (iteration-level scheduling). A batch that waits for its longest answer leaves most rows
idle; here a row that has ended makes room at once. It needs only the protocol of states: `start`
reads a prompt, `join` adds its row to the batch, `reorder` drops the rows that ended.

    scheduler = Scheduler(model)
    thread = threading.Thread(target=scheduler.run)    # the only one that uses the model
    request = scheduler.submit(Request(prompt, stop={2}, max_length=50))
    for token in request: ...                          # from any thread
"""

import threading
from collections import deque
from typing import Any

import torch

from qkv.errors import BusyError, ConfigError
from qkv.generation.request import Reading, Request
from qkv.generation.state import Decodable


class Scheduler:
    """The queue in front of a model and the batch that it runs.

    Args:
        model: model in evaluation mode; its `start` takes all tokens of a prompt but the last.
        max_rows: rows of the batch.
        max_waiting: requests that may wait; more are refused.
        chunk: tokens of prompts that are read between two steps, so that a long prompt does not
            keep the running answers waiting.
        device: device of the model.
    """

    def __init__(
        self,
        model: Decodable,
        *,
        max_rows: int = 16,
        max_waiting: int = 256,
        chunk: int = 128,
        device: torch.device | str = "cpu",
    ):
        if min(max_rows, max_waiting, chunk) < 1:
            raise ConfigError(
                f"max_rows = {max_rows}, max_waiting = {max_waiting}, chunk = {chunk}; expected at "
                "least 1 each"
            )
        self._model, self._max_rows, self._chunk = model, max_rows, chunk
        self._max_waiting, self._device = max_waiting, device
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._readings: deque[Reading] = deque()  # they take turns, so none starves another
        self._rows: list[Request] = []
        self._last: list[int] = []  # each row's last token, which the next step reads
        self._state: Any = None

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether there is work for `step`."""
        return bool(self._waiting or self._readings or self._rows)

    @property
    def n_running(self) -> int:
        """Number of rows of the batch, and of prompts that are being read."""
        return len(self._rows) + len(self._readings)

    def submit(self, request: Request) -> Request:
        """Add a request to the queue; first come, first served.

        Raises:
            BusyError: if too many wait already, or the scheduler was closed.
        """
        with self._changed:
            if len(self._waiting) >= self._max_waiting:  # those that were cancelled leave room
                self._waiting = deque(x for x in self._waiting if not (x.cancelled and x.close()))
            if self._closed or len(self._waiting) >= self._max_waiting:
                why = "is closed" if self._closed else f"has {self._max_waiting} waiting requests"
                raise BusyError(f"the scheduler {why}; expected room for another: try again later")
            self._waiting.append(request)
            self._changed.notify()
        return request

    def close(self) -> None:
        """Take no more requests; `run` returns once all have been answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def end(self, error: Exception) -> None:
        """End all requests with an error; for the thread that steps."""
        with self._changed:
            self._closed = True
        for request in (*self._waiting, *(one.request for one in self._readings), *self._rows):
            request.close(error)
        self._waiting.clear()
        self._readings.clear()
        self._rows, self._last, self._state = [], [], None

    def run(self) -> None:
        """Answer requests until the scheduler is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.busy or self._closed)
                if not self.busy:
                    return
            self.step()

    def step(self) -> None:
        """Read a chunk of the next prompts, and give every running request a token.

        An error of the model ends the requests that it concerns, and no others.
        """
        with torch.inference_mode():
            self._admit()
            try:
                new = self._read_prompts()
                if new is not None:
                    self._state = _joined(self._state, new)
                self._advance()
            except Exception as error:
                for request in self._rows:
                    request.close(error)
                self._rows, self._last, self._state = [], [], None

    def _admit(self) -> None:
        """Begin to read prompts as long as there is room in the batch."""
        with self._changed:
            while self._waiting and self.n_running < self._max_rows:
                self._readings.append(Reading(self._waiting.popleft()))

    def _read_prompts(self) -> Any:
        """Read up to `chunk` tokens of prompts; return the state of those that are complete."""
        left, joined = self._chunk, None
        for _ in range(len(self._readings)):
            if left <= 0:
                break
            one = self._readings.popleft()
            try:
                left -= one.read(self._model, left, self._device)
            except Exception as error:
                one.request.close(error)
                continue
            if one.request.cancelled:
                one.request.close()
            elif not one.complete:
                self._readings.append(one)
            else:
                joined = _joined(joined, one.state)
                self._rows.append(one.request)
                self._last.append(one.request.prompt[-1])
        return joined

    def _advance(self) -> None:
        """Compute a token for each row, and drop the rows that have ended."""
        self._keep([i for i, request in enumerate(self._rows) if not request.cancelled])
        if not self._rows:
            return
        last = torch.tensor(self._last, device=self._device)[:, None]
        logits = self._model.step(last, self._state)[:, -1]
        kept = []
        for i, request in enumerate(self._rows):
            try:
                self._last[i] = request.choose(logits[i])
                ended = request.add(self._last[i])
            except Exception as error:
                ended = request.close(error)
            if not ended:
                kept.append(i)
        self._keep(kept)

    def _keep(self, rows: list[int]) -> None:
        """Let the other rows leave; cancelled ones get no error."""
        if len(rows) == len(self._rows):
            return
        for request in self._rows:
            if request.cancelled:
                request.close()
        self._rows = [self._rows[i] for i in rows]
        self._last = [self._last[i] for i in rows]
        if rows:
            self._state.reorder(torch.tensor(rows, device=self._device))
        else:
            self._state = None


def _joined(state: Any, other: Any) -> Any:
    """Return a state with the rows of both; None has no rows."""
    if state is None:
        return other
    state.join(other)
    return state
