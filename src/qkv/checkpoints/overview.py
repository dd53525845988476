"""Lists of the supported published families, generated from their name tables."""

from collections.abc import Iterable, Mapping

from qkv.checkpoints.family import ONLY, Family

Rows = list[dict[str, str]]

FORMATS: Rows = [
    {"format": "llama2.c, version 0", "file": "*.bin, float32", "becomes": "Llama"},
    {"format": "GGUF, versions 2 and 3", "file": "*.gguf", "becomes": "Llama or GPT"},
    {"format": "CTranslate2, version 2", "file": "model.bin, float32", "becomes": "Transformer"},
]


def list_families(families: Iterable[Family]) -> Rows:
    """Return one row per `model_type`: our model, and its architectures."""
    return [
        {
            "model_type": family.model_type,
            "model": base_model(family),
            "architectures": ", ".join(one.name for one in family.architectures),
        }
        for family in families
    ]


def base_model(family: Family) -> str:
    """Return the name of our class without a head."""
    bases = [one.model.__name__ for one in family.architectures if one.base]
    return (bases or [family.architectures[0].model.__name__])[0]


def list_architectures(family: Family) -> Rows:
    """Return one row per architecture of config.json, with the class that is built."""
    return [
        {"architecture": one.name, "builds": one.model.__name__} for one in family.architectures
    ]


def list_fields(family: Family) -> Rows:
    """Return one row per supported field of config.json: our name and the accepted values."""
    rows: dict[str, dict[str, str]] = {}
    for one in family.fields:
        row = rows.setdefault(one.theirs, {"config.json": one.theirs, "here": "", "may be": ""})
        row["here"] = ", ".join(filter(None, (row["here"], one.ours)))
        if one.values is not None:
            row["may be"] = ", ".join(map(str, one.values))
    return list(rows.values())


def list_refused(family: Family) -> Rows:
    """Return one row per field with a single supported value; others are rejected by name."""
    only: Mapping[str, object] = {**ONLY, **family.only}
    return [{"config.json": name, "must be": repr(value)} for name, value in only.items()]
