"""The guards of both servers, each by itself: the servers' own tests send requests through all."""

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from qkv.web import guards


def run(app, messages, left=None, *, read=lambda message: None):
    """Handle one request; return what was sent, and leave what was not received."""
    sent, left = [], list(messages) if left is None else left

    async def receive():
        if not left:
            await asyncio.sleep(60)
        return left.pop(0)

    async def send(message):
        await asyncio.sleep(read(message) or 0)
        sent.append(message)

    asyncio.run(app({"type": "http", "headers": []}, receive, send))
    return sent


def refuse(status, message):
    return PlainTextResponse(message, status)


def part(body, *, more):
    return {"type": "http.request", "body": body, "more_body": more}


async def reader(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.body", "body": body})


def test_a_body_of_the_largest_size_is_read_and_one_byte_more_is_not(monkeypatch):
    monkeypatch.setattr(guards, "LARGEST_BODY", 7)
    app = guards.Bounded(reader, refuse)
    good = [part(b"abc", more=True), part(b"defg", more=False)]
    assert run(app, good)[0]["body"] == b"abcdefg"
    with pytest.raises(HTTPException, match="more than 7 bytes") as caught:
        run(app, [part(b"abc", more=True), part(b"defgh", more=False)])
    assert caught.value.status_code == 413


def test_the_rest_of_a_large_body_is_dropped_so_that_the_answer_is_read(monkeypatch):
    monkeypatch.setattr(guards, "LARGEST_BODY", 7)
    monkeypatch.setattr(guards, "MOST_DRAINED", 20)
    parts = [part(b"12345678", more=True)] * 9
    with pytest.raises(HTTPException, match="more than 7 bytes"):
        run(guards.Bounded(reader, refuse), parts, left := list(parts))
    assert len(left) == 9 - 1 - 3  # one too many, then 24 bytes


def test_a_client_that_sends_or_reads_nothing_is_left(monkeypatch):
    monkeypatch.setattr(guards, "PATIENCE", 0.05)
    app = guards.Bounded(reader, refuse)
    with pytest.raises(HTTPException, match="no part of the body came") as caught:
        run(app, [part(b"abc", more=True)])
    assert caught.value.status_code == 408
    assert run(app, [part(b"abc", more=False)], read=lambda message: 60) == []


def test_waiting_for_a_client_to_leave_is_no_slow_body(monkeypatch):
    monkeypatch.setattr(guards, "PATIENCE", 0.05)

    async def waits(scope, receive, send):
        await receive()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(receive(), 0.2)
        await send({"type": "http.response.body"})

    assert len(run(guards.Bounded(waits, refuse), [part(b"", more=False)])) == 1


def test_all_bodies_and_requests_together_are_bounded(monkeypatch):
    monkeypatch.setattr(guards, "MOST_HELD", 10)
    monkeypatch.setattr(guards, "MOST_INSIDE", 2)
    held, statuses = asyncio.Event(), []

    async def holds(scope, receive, send):
        await receive()
        await held.wait()
        await send({"type": "http.response.body"})

    async def one(app, size):
        async def receive():
            return part(b"x" * size, more=False)

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await app({"type": "http", "headers": []}, receive, send)

    async def all_at_once():
        app = guards.Bounded(holds, refuse)
        first = asyncio.create_task(one(app, 7))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="too many large bodies") as caught:
            await one(app, 4)
        assert caught.value.status_code == 503
        second = asyncio.create_task(one(app, 3))  # what was refused is no longer held
        await asyncio.sleep(0)
        await one(app, 0)
        assert statuses == [503]
        held.set()
        await asyncio.gather(first, second)
        await one(app, 10)

    asyncio.run(all_at_once())
