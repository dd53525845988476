"""The families by their `model_type` in config.json."""

from typing import Any

from qkv.checkpoints.family import Family
from qkv.checkpoints.tables import bart, bert, gpt, llama, marian, own, t5, vit
from qkv.errors import ConfigError
from qkv.json_fields import shown

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for table in (bert, gpt, llama, vit, marian, bart, t5, own)
    for family in table.FAMILIES
}


def family_of(model_type: Any) -> Family:
    """Return the family of a `model_type`.

    Raises:
        ConfigError: if there is none with this name.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(
            f"model_type = {shown(model_type)} is not implemented; expected one of "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]
