"""Check a built site: what a reader types is found, and what is public is in the reference."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from sphinx.search.en import SearchEnglish

# What readers type: terms of the tutorial, names of the library, words of other libraries.
TERMS = [
    "attention",
    "self-attention",
    "cross-attention",
    "multi-head",
    "softmax",
    "query",
    "key",
    "value",
    "mask",
    "causal",
    "padding",
    "positional",
    "rotary",
    "sinusoidal",
    "ALiBi",
    "encoder",
    "decoder",
    "residual",
    "LayerNorm",
    "beam",
    "greedy",
    "temperature",
    "top-p",
    "perplexity",
    "BLEU",
    "tokenizer",
    "BERT",
    "GPT",
    "ViT",
    "LoRA",
    "fine-tuning",
    "cache",
    "Bahdanau",
    "Luong",
    "past_key_values",
    "MultiHeadAttention",
    "int8",
    "GGUF",
    "teacher",
    "forcing",
    "logits",
    "embeddings",
    "calibration",
    "serve",
    "explore",
    "exercise",
]
REFERENCE = re.compile(
    r'<dt class="sig sig-object py" id="(qkv[\w.]+)">(.*?)</dt>\s*<dd>(.*?)</dd>', re.DOTALL
)
LEAST = 0.95  # share of public functions and classes with a text and a link to their source


def not_found(site: Path, terms: Iterable[str] = TERMS) -> list[str]:
    """Return the terms that the search of a site does not find, as its page looks them up."""
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    known = index["terms"].keys() | index["titleterms"].keys()
    names = " ".join(index["alltitles"]).lower() + json.dumps(index["objects"]).lower()
    stem = SearchEnglish({}).stem
    return [
        term
        for term in terms
        if term.lower() not in names
        and not all(stem(word) in known for word in re.findall(r"\w+", term.lower()))
    ]


def undocumented(site: Path) -> tuple[list[str], int]:
    """Return the functions and classes without a text or a source, and how many there are."""
    entries = [
        (name, head, body)
        for path in sorted((site / "api").glob("*.html"))
        for name, head, body in REFERENCE.findall(path.read_text(encoding="utf-8"))
        if "sig-paren" in head  # not attributes
    ]
    bare = [
        name
        for name, head, body in entries
        if "viewcode-link" not in head or not re.search(r"<p>\s*\S", body)
    ]
    return bare, len(entries)
