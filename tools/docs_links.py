"""Check the links of a built site: none leads nowhere, and nothing is loaded from another host."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.loads, self.anchors = list[str](), list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the attributes that matter."""
        known = {name: value for name, value in attrs if value is not None}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag in ("link", "script", "img", "iframe", "source"):
            target = known.get("href") or known.get("src")
            if target and known.get("rel") not in ("canonical", "author"):
                self.loads.append(target)


def check(site: Path) -> tuple[list[str], set[str]]:
    """Return what is broken, in words, and the addresses of other hosts that pages link to.

    Args:
        site: folder of a built site.
    """
    pages = {
        path: Page(path.read_text(encoding="utf-8", errors="replace"))
        for path in sorted(site.rglob("*.html"))
    }
    broken, others = list[str](), set[str]()
    for path, page in pages.items():
        where = path.relative_to(site)
        for target in page.loads:
            if _host(target):
                broken.append(f"{where} loads {target} from another host")
            elif not _exists(path, target, pages):
                broken.append(f"{where} loads {target}, which is missing")
        for target in page.links:
            if _host(target):
                others.add(target)
                if urlsplit(target).scheme not in ("https", "http"):
                    broken.append(f"{where} links to {target}")
            elif not _exists(path, target, pages):
                broken.append(f"{where} links to {target}, which is missing")
    return list(dict.fromkeys(broken)), others


def _host(target: str) -> bool:
    parts = urlsplit(target)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def _exists(path: Path, target: str, pages: dict[Path, Page]) -> bool:
    if target.startswith("data:"):
        return True
    parts = urlsplit(target)
    aim = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not aim.is_file():
        return False
    return aim not in pages or not parts.fragment or unquote(parts.fragment) in pages[aim].anchors
