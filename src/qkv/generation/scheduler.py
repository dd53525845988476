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
from dataclasses import dataclass
from typing import Any

import torch

from qkv.errors import BusyError, ConfigError
from qkv.generation.request import Request
from qkv.generation.state import Decodable


@dataclass
class Reading:
    """A prompt that is being read: its state, and the number of tokens read."""

    request: Request
    state: Any = None
    n_read: int = 0


class Scheduler:
    """The queue in front of a model and the batch that it runs.

    Args:
        model: model in evaluation mode; its `start` takes all tokens of a prompt but the last.
        max_rows: rows of the batch.
        max_waiting: requests that may wait; more are refused.
        chunk: tokens of a prompt that are read between two steps, so that a long prompt does not
            keep the running answers waiting.
    """

    def __init__(
        self, model: Decodable, *, max_rows: int = 16, max_waiting: int = 256, chunk: int = 128
    ):
        if min(max_rows, max_waiting, chunk) < 1:
            raise ConfigError(
                f"max_rows = {max_rows}, max_waiting = {max_waiting}, chunk = {chunk}; expected at "
                "least 1 each"
            )
        self._model, self._max_rows, self._chunk = model, max_rows, chunk
        self._max_waiting = max_waiting
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
    def n_running(self) -> int:
        """Number of rows of the batch, and of prompts that are being read."""
        return len(self._rows) + len(self._readings)

    def submit(self, request: Request) -> Request:
        """Add a request to the queue; first come, first served.

        Raises:
            BusyError: if too many wait already, or the scheduler was closed.
        """
        with self._changed:
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

    def run(self) -> None:
        """Answer requests until the scheduler is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.n_running or self._closed)
                if not (self._waiting or self.n_running):
                    return
            self.step()

    def step(self) -> None:
        """Read a chunk of the next prompt, and give every running request a token.

        An error of the model ends the requests that it concerns, and no others.
        """
        with torch.inference_mode():
            self._admit()
            if self._readings:
                reading = self._readings.popleft()
                try:
                    self._read(reading)
                except Exception as error:
                    reading.request.close(error)
            try:
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

    def _read(self, one: Reading) -> None:
        """Read a chunk of a prompt; when all but its last token was read, its row joins."""
        if one.request.cancelled:
            one.request.close()
            return
        prompt = torch.tensor([list(one.request.prompt[:-1])], dtype=torch.long)
        chunk = prompt[:, one.n_read : one.n_read + self._chunk]
        if one.state is None:
            one.state = self._model.start(chunk)
        else:
            self._model.step(chunk, one.state)
        one.n_read += chunk.shape[1]
        if one.n_read < prompt.shape[1]:
            self._readings.append(one)
            return
        if self._state is None:
            self._state = one.state
        else:
            self._state.join(one.state)
        self._rows.append(one.request)
        self._last.append(one.request.prompt[-1])

    def _advance(self) -> None:
        """Compute a token for each row, and drop the rows that have ended."""
        self._keep([i for i, request in enumerate(self._rows) if not request.cancelled])
        if not self._rows:
            return
        logits = self._model.step(torch.tensor(self._last)[:, None], self._state)[:, -1]
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
            self._state.reorder(torch.tensor(rows))
        else:
            self._state = None
