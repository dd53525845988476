"""The explorer's page with a record in it: one file that opens with a double click, offline."""

import base64
from functools import lru_cache
from pathlib import Path

from qkv.errors import DataError
from qkv.explorer.record import Record

PAGE = Path(__file__).parent / "page" / "index.html"
PLACE = "<!-- record -->"  # in the built page, once


@lru_cache(maxsize=1)
def empty_page() -> str:
    """Return the built page, which requests records from a server.

    Raises:
        DataError: it has not been built.
    """
    if not PAGE.is_file():
        raise DataError(f"{PAGE} is missing; expected the page that npm run build makes")
    page = PAGE.read_text(encoding="utf-8")
    if page.count(PLACE) != 1:
        raise DataError(f"{PAGE} has {PLACE} {page.count(PLACE)} times; expected once")
    return page


def page_with(record: Record) -> str:
    """Return the page with a record, as base64 in a script that is not run."""
    data = base64.b64encode(record.encode()).decode("ascii")
    script = f'<script type="application/octet-stream" id="record">{data}</script>'
    return empty_page().replace(PLACE, script)
