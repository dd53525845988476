"""The content of requests: JSON objects and images. No name from a request is used as a path."""

import base64
import binascii
import io
from typing import TYPE_CHECKING, Any

from qkv.data.images import pillow_modules
from qkv.errors import ConfigError, DataError
from qkv.json_fields import parse_json, shown

if TYPE_CHECKING:  # the widget reads images, and needs no Starlette
    from starlette.requests import Request

LONGEST_TEXT = 20_000  # characters
LARGEST_IMAGE = 25_000_000  # pixels
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # no format starts a program


async def read_body(request: "Request") -> dict[str, Any]:
    """Return the JSON object in a request.

    Raises:
        DataError: it is not JSON, or not an object.
        ConfigError: the content type is not JSON, as in a form of another site.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ConfigError(f"content type {kind or 'none'}; expected application/json")
    try:
        return parse_json((await request.body()).decode("utf-8"), "the body")
    except UnicodeDecodeError as error:
        raise DataError(f"the body is not UTF-8 ({error.reason})") from error


def decode_picture(content: str) -> Any:
    """Return an image from base64, rotated according to its EXIF data.

    Raises:
        DataError: it is not an image, or has too many pixels.
    """
    pillow = pillow_modules()
    try:
        data = io.BytesIO(base64.b64decode(content, validate=True))
        image = pillow.Image.open(data, formats=FORMATS)
        if image.width * image.height > LARGEST_IMAGE:
            raise DataError(
                f"an image of {image.width} x {image.height} pixels; expected at most "
                f"{LARGEST_IMAGE:,}"
            )
        image.load()
    except (OSError, ValueError, SyntaxError, binascii.Error, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the image cannot be read: {shown(str(error))}") from error
    except Exception as error:  # decompression bombs, and decoders' own errors
        raise DataError(f"the image cannot be read: {type(error).__name__}") from error
    return pillow.ImageOps.exif_transpose(image)
