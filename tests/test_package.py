import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError
from tests.checking import type_checks

import qkv
from qkv.attention.core import mask_scores

ROOT = Path(__file__).resolve().parents[1]


def python(code):
    """What a fresh interpreter prints for some code."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_importing_qkv_imports_nothing_heavy():
    assert python("import sys, qkv; qkv.__version__; print('torch' in sys.modules)") == "False"


def test_models_import_no_tokenizer_and_no_transformers():
    code = """
import importlib, pkgutil, sys, qkv
for layer in "attention", "blocks", "models":
    package = importlib.import_module(f"qkv.{layer}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
banned = "transformers", "tokenizers", "sentencepiece", "accelerate", "datasets"
print("qkv.models.transformer" in sys.modules, [name for name in banned if name in sys.modules])
"""
    assert python(code) == "True []"


def test_every_name_of_the_api_is_offered():
    import qkv.api as api

    assert set(api.__all__) <= set(dir(qkv))
    for name in api.__all__:
        assert getattr(qkv, name) is getattr(api, name)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'Transfromer'.*'Transformer'"):
        _ = qkv.Transfromer


def test_the_tests_can_check_shapes_at_run_time():
    with type_checks(True), pytest.raises(TypeCheckError):
        mask_scores("no tensor", None)


def test_the_lock_names_all_direct_dependencies_and_nothing_local():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["tutorial"], *extras["dev"]]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    locked = {normal(pin.partition("==")[0]) for pin in pins}
    named = {normal(re.match(r"[\w.-]+", one)[0]) for one in wanted}
    assert named - {"qkv"} <= locked


def test_the_citation_and_the_workflow_agree_with_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {project['version']}\n" in citation
    assert f"\nlicense: {project['license']}\n" in citation
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    lowest = project["requires-python"].removeprefix(">=")
    assert f'python: ["{lowest}",' in workflow
    assert f'python-version: "{lowest}"' in workflow


def test_the_package_says_that_it_has_types():
    assert (Path(qkv.__file__).parent / "py.typed").exists()
