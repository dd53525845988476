"""A real checkpoint: all-MiniLM-L6-v2, a BERT that embeds sentences, against transformers."""

import pydoc_data.topics
import re

import pytest
import torch
import transformers
from tests.parity.published import comes_back
from tests.parity.reference import agree

from qkv.checkpoints.checkpoint import load_checkpoint
from qkv.models.pooling import mean_token
from qkv.zoo.catalog import ZOO

N, ROWS = 75, 25


@pytest.fixture(scope="module")
def folder():
    return ZOO["all-MiniLM-L6-v2"].locate()


def sentences():
    """Sentences of Python's own documentation, which every interpreter has."""
    text = " ".join(" ".join(topic.split()) for topic in pydoc_data.topics.topics.values())
    found = [s for s in re.findall(r"[A-Z][^.!?]*[.!?](?=\s)", text) if 30 < len(s) < 120]
    return list(dict.fromkeys(found))[:N]


@pytest.mark.parametrize("side", ["right", "left"])
def test_embeddings_of_real_sentences(folder, side):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side=side)
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    model = load_checkpoint(folder).model
    texts = sentences()
    assert len(texts) == N
    count = N if side == "right" else ROWS
    for first in range(0, count, ROWS):
        batch = tokenizer(texts[first : first + ROWS], padding=True, return_tensors="pt")
        mask = batch["attention_mask"].bool()
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        real = mask[..., None]

        def numbers(ours, theirs, dtype, batch=batch, mask=mask, positions=positions, real=real):
            with torch.inference_mode():
                expected = theirs(**batch, position_ids=positions).last_hidden_state
                hidden = ours(batch["input_ids"], token_mask=mask)
                embeddings = (expected * real).sum(1) / real.sum(1)
                return {
                    "states": (hidden[mask], expected[mask]),
                    "embeddings": (mean_token(hidden, mask), embeddings),
                }

        agree(numbers, model, theirs)


def test_saving_back_gives_the_same_file(folder, tmp_path):
    checkpoint = load_checkpoint(folder)
    assert "bert.embeddings.position_ids" in checkpoint.origin.names
    comes_back(checkpoint, transformers.BertModel, folder, tmp_path / "saved")
    for file in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
        assert (tmp_path / "saved" / file).read_bytes() == (folder / file).read_bytes()
