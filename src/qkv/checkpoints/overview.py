"""What is implemented of the published families, in words: read from their name tables."""

from collections.abc import Iterable, Mapping

from qkv.checkpoints.family import ONLY, Family

Rows = list[dict[str, str]]

FORMATS: Rows = [
    {"format": "llama2.c, version 0", "file": "*.bin, float32", "becomes": "Llama"},
    {"format": "CTranslate2, version 2", "file": "model.bin, float32", "becomes": "Transformer"},
]


def list_families(families: Iterable[Family]) -> Rows:
    """One row a `model_type`: our model, and the architectures that load and save."""
    return [
        {
            "model_type": family.model_type,
            "model": base_model(family),
            "architectures": ", ".join(one.name for one in family.architectures),
        }
        for family in families
    ]


def base_model(family: Family) -> str:
    """The name of our class without a head of another."""
    bases = [one.model.__name__ for one in family.architectures if one.base]
    return (bases or [family.architectures[0].model.__name__])[0]


def list_architectures(family: Family) -> Rows:
    """One row an architecture of config.json: the class that is built."""
    return [
        {"architecture": one.name, "builds": one.model.__name__} for one in family.architectures
    ]


def list_fields(family: Family) -> Rows:
    """One row a field of config.json that numbers depend on: ours, and what it may say."""
    rows: dict[str, dict[str, str]] = {}
    for one in family.fields:
        row = rows.setdefault(one.theirs, {"config.json": one.theirs, "here": "", "may be": ""})
        row["here"] = ", ".join(filter(None, (row["here"], one.ours)))
        if one.values is not None:
            row["may be"] = ", ".join(map(str, one.values))
    return list(rows.values())


def list_refused(family: Family) -> Rows:
    """One row a field of which one value is implemented: all others are refused by name."""
    only: Mapping[str, object] = {**ONLY, **family.only}
    return [{"config.json": name, "must be": repr(value)} for name, value in only.items()]
