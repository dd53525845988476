"""Checking the links of a site."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from docs_links import check


def test_what_is_broken_is_named(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="sub/a.html#here">a</a><a href="#top">b</a><a href="gone.html">c</a>'
        '<a href="https://arxiv.org/abs/1706.03762">d</a><img src="data:image/png;base64,AA">'
        '<script src="https://cdn.example.org/x.js"></script><h1 id="top">x</h1>'
    )
    (tmp_path / "sub" / "a.html").write_text(
        '<h1 id="there">x</h1><a href="../index.html?q=1#top">e</a><img src="../no.png">'
    )
    broken, others = check(tmp_path)
    assert broken == [
        "index.html loads https://cdn.example.org/x.js from another host",
        "index.html links to sub/a.html#here, which is missing",
        "index.html links to gone.html, which is missing",
        "sub/a.html loads ../no.png, which is missing",
    ]
    assert others == {"https://arxiv.org/abs/1706.03762"}
