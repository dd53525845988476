"""Every family is one graph: compiled without a break, exported and traced for other lengths."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.checking import NIGHTLY
from tests.checkpoints.tiny import TINY

# A loop over the words or chunks of a text, each step of which reads the last, has no graph for any
# length.
LOOPS = {"qkv_rnn", "qkv_hybrid"}
# Their code is another's (RoBERTa's, Llama's, T5's), so that a graph of theirs is one of those.
AGAIN = {"camembert", "xlm-roberta", "qwen2", "mt5"}
FAMILIES = [name for name in TINY if name not in (LOOPS if NIGHTLY else LOOPS | AGAIN)]


@pytest.fixture(scope="module")
def failures():
    script = Path(__file__).with_name("graphs.py")
    # Not traced by coverage: the compiler reads each line that runs, and would read the tracer's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, str(script), *FAMILIES],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("how", ["compiled", "exported", "traced"])
def test_a_graph_computes_what_the_model_does_for_any_batch_and_length(how, name, failures):
    assert failures.get(f"{how}-{name}") is None
