"""Errors in the format of OpenAI's clients: {"error": {"message", "type", "param", "code"}}."""

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from qkv.errors import BusyError, LengthError, QKVError
from qkv.json_fields import shown
from qkv.serve.models import NoModelError
from qkv.tasks.streams import complain

RETRY = {"Retry-After": "1"}  # seconds


class FailedError(QKVError):
    """A failure of a model that the request has not caused."""


class ErrorDetail(BaseModel):
    """The details of an error.

    Args:
        message: a sentence.
        type: invalid_request_error, or server_error.
        param: the invalid field, if any.
        code: a machine-readable code, such as model_not_found.
    """

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of an error response."""

    error: ErrorDetail


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of a route's errors."""
    return {
        status: {"model": ErrorBody, "description": DESCRIPTIONS[status]}
        for status in (400, 401, 403, 408, 413, 500, 503, *statuses)
    }


DESCRIPTIONS = {
    400: "a field is wrong, or prompt and answer are too long",
    401: "the key is missing or wrong",
    403: "a request of another site",
    404: "the model is not served",
    408: "the body came too slowly",
    413: "the body is too large",
    500: "the model failed",
    503: "too many requests wait",
}


def refuse(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> Response:
    """Return an error response.

    Args:
        status: HTTP status.
        message: a sentence.
        param: the invalid field.
        code: a machine-readable code.
    """
    headers = RETRY if status == 503 else {}
    body = error_body(status, message, param=param, code=code)
    return JSONResponse(body, status_code=status, headers=headers)


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return the JSON of an error; see `refuse`."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def describe(error: BaseException) -> tuple[int, str, str | None]:
    """Return the status, the message and the code of an error; report server errors."""
    if isinstance(error, NoModelError):
        return 404, str(error), "model_not_found"
    if isinstance(error, BusyError):
        return 503, str(error), "unavailable"
    if isinstance(error, LengthError):
        return 400, str(error), "context_length_exceeded"
    if isinstance(error, QKVError) and not isinstance(error, FailedError):
        return 400, str(error), None
    error = error.__cause__ or error
    complain(f"error: {type(error).__name__}: {error}")
    return 500, f"the model failed: {type(error).__name__}", "model_failed"


async def on_error(_request: Request, error: Exception) -> Response:
    """Answer an error of the library or of a model."""
    status, message, code = describe(error)
    return refuse(status, message, code=code)


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answer an error of HTTP, such as an unknown path."""
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 404:
        message = "there is no such path; /openapi.json lists them"
    answer = refuse(error.status_code, message)
    answer.headers.update(error.headers or {})
    return answer


async def on_wrong_fields(_request: Request, error: Exception) -> Response:
    """Answer a body that is not JSON, or has wrong fields."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(one) for one in first["loc"][1:]) or "the body"
    kind, found = first["type"], first.get("input")
    if kind == "json_invalid":
        return refuse(400, f"the body is not JSON: {first.get('ctx', {}).get('error', '')}")
    if kind == "missing":
        return refuse(400, f"{place} is missing", param=place)
    if kind == "extra_forbidden":
        message = f"{place} is not supported: it would change the answer, or is misspelt"
        return refuse(400, message, param=place)
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return refuse(400, f"{place} = {shown(found)}: {expected}", param=place)


async def on_leaving(_request: Request, _error: Exception) -> Response:
    """Return a response for a client that has disconnected, which nobody reads."""
    return Response(status_code=499)


HANDLERS: dict[Any, Any] = {
    QKVError: on_error,
    HTTPException: on_http_error,
    RequestValidationError: on_wrong_fields,
    ClientDisconnect: on_leaving,
}
