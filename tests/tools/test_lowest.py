import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOUNDS = ROOT / "tools" / "lowest.py"


@pytest.fixture(scope="module")
def lowest():
    spec = importlib.util.spec_from_file_location("lowest", BOUNDS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lowest


def project(core, **extras):
    return {"name": "qkv", "dependencies": core, "optional-dependencies": extras}


def test_the_lower_bounds_are_those_of_the_core_and_of_all_extras(lowest):
    declared = project(["a>=1.2", "b-c[d]>=3"], one=["e>=0.5.7"], all=["qkv[one]", "a>=1.2"])
    assert lowest(declared) == {"a": "1.2", "b-c": "3", "e": "0.5.7"}


@pytest.mark.parametrize("line", ["a", "a==1.2", "a<3", "a>=1.2,<3"])
def test_a_dependency_without_a_plain_lower_bound_is_named(lowest, line):
    with pytest.raises(ValueError, match=r"has no lower bound; expected such as a>=1\.0"):
        lowest(project([], one=[line]))


def test_two_bounds_of_one_dependency_are_refused(lowest):
    with pytest.raises(ValueError, match=r"a has two lower bounds: 1\.2 and 1\.3"):
        lowest(project(["a>=1.2"], one=["a>=1.3"]))


def test_every_direct_dependency_has_a_lower_bound(lowest):
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"torch", "numpy", "pytest-xdist"} <= set(lowest(declared))
