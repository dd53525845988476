"""Print the lowest versions that pyproject.toml declares, as constraints for pip."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lowest(project: dict) -> dict[str, str]:
    """Return the lowest version of each direct dependency, by name.

    Args:
        project: the table of that name in pyproject.toml.

    Raises:
        ValueError: a dependency has no lower bound, or two that differ.
    """
    extras = project["optional-dependencies"].values()
    versions: dict[str, str] = {}
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?(.*)", line).groups()
        if name == project["name"]:  # an extra made of others
            continue
        version = re.fullmatch(r">=([\d.]+)", bound)
        if not version:
            raise ValueError(f"{line} has no lower bound; expected such as {name}>=1.0")
        if versions.setdefault(name, version[1]) != version[1]:
            raise ValueError(f"{name} has two lower bounds: {versions[name]} and {version[1]}")
    return versions


if __name__ == "__main__":
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    print("\n".join(f"{name}=={version}" for name, version in lowest(declared).items()))
