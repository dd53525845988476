"""config.json of published models: what is built of one has the parameters of transformers' model.

Without memory on both sides, so that a model of 7 billion numbers takes none.
"""

import pytest
import torch
import transformers
from tests.checkpoints.test_published_configs import FOLDER, LOADS, json, read

# Theirs minus ours. Marian: two tables of sinusoids, which are no parameters here, and the bias of
# the logits, which is none there. T5 1.1 and mT5: an output layer, tied until a file has one.
DIFFERENCES = {
    "Helsinki-NLP--opus-mt-en-de": 2 * 512 * 512 - 58_101,
    "google--flan-t5-small": -32_128 * 512,
    "google--mt5-small": -250_112 * 512,
}


@pytest.mark.parametrize("name", LOADS)
def test_as_many_parameters(name):
    raw = json.loads((FOLDER / f"{name}.json").read_text())
    config = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    with torch.device("meta"):
        theirs = getattr(transformers, raw["architectures"][0])(config)
    theirs.tie_weights()
    ours, theirs = (sum(p.numel() for p in model.parameters()) for model in (read(name)[1], theirs))
    assert theirs - ours == DIFFERENCES.get(name, 0)
