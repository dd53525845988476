"""The smallest sequence-to-sequence model, and a batch for it."""

import torch
from torch import nn

from qkv.data.batches import PairBatch
from qkv.training.settings import Training


class ToySeq2Seq(nn.Module):
    """Next token from the previous one and the mean of the real source tokens."""

    def __init__(self, vocab: int, d_model: int):
        super().__init__()
        self.embedding = nn.Embedding(vocab, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(d_model, vocab)

    def hidden(self, source, target, *, source_mask=None, target_mask=None):
        keep = source_mask.to(self.head.weight.dtype)[..., None]
        memory = (self.embedding(source) * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)
        return self.dropout(self.norm(self.embedding(target) + memory))

    def forward(self, source, target, *, source_mask=None, target_mask=None):
        return self.head(self.hidden(source, target, source_mask=source_mask))


def toy_batch(vocab: int = 11, batch: int = 3, source: int = 5, target: int = 7) -> PairBatch:
    """Random tokens; every row has another length, so there is padding on both sides."""
    lengths = target - torch.arange(batch) % target
    target_mask = torch.arange(target) < lengths[:, None]
    source_mask = torch.arange(source) < (source - torch.arange(batch) % source)[:, None]
    tokens = torch.randint(1, vocab, (batch, target + 1))
    return PairBatch(
        source=torch.randint(1, vocab, (batch, source)) * source_mask,
        source_mask=source_mask,
        target_input=tokens[:, :-1] * target_mask,
        target=tokens[:, 1:] * target_mask,
        target_mask=target_mask,
        n_targets=int(target_mask.sum()),
    )


def settings(**options) -> Training:
    """A constant rate, unless a test says otherwise."""
    return Training(**{"learning_rate": 1e-3, "schedule": "constant", "warmup": 0, **options})
