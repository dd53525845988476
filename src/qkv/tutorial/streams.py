"""Small character-level language models, trained on windows of one stream of texts.

Shapes: B batch, L tokens, D d_model, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.stack import Stack
from qkv.data.pretraining import TokenBatch, collate_causal
from qkv.data.tokenizers import Tokenizer
from qkv.training.history import History
from qkv.training.loop import train
from qkv.training.losses import linear_cross_entropy
from qkv.training.progress import Bar
from qkv.training.settings import Training


class LanguageModel(nn.Module):
    """Predicts each next token; `positions` are added to the embeddings."""

    def __init__(
        self,
        config: BlockConfig,
        n_layers: int,
        vocab_size: int,
        *,
        positions: nn.Module | None = None,
        make_block: Callable[[int], Block] | None = None,
    ):
        super().__init__()
        d = config.d_model
        self.embedding, self.positions = TokenEmbedding(vocab_size, d, scale=d**0.5), positions
        self.stack = Stack(config, n_layers, make_block=make_block)
        for parameter in self.stack.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, L) to vectors (B, L, D); their products with the embeddings are logits."""
        x = self.embedding(tokens)
        if self.positions is not None:
            x = self.positions(x, torch.arange(tokens.shape[1], device=tokens.device))
        return self.stack(x)


def next_token_loss(model: LanguageModel, batch: TokenBatch) -> Tensor:
    """Return the sum of the cross-entropies of tokens 1, 2, ... given those before."""
    hidden = model(batch.tokens).flatten(0, 1)
    return linear_cross_entropy(hidden, model.embedding.weight, None, batch.targets)


@dataclass(frozen=True)
class Stream:
    """Texts joined into one stream, each followed by the stop token."""

    tokens: Tensor
    pad: int

    @classmethod
    def of(cls, texts: Iterable[str], tokenizer: Tokenizer) -> "Stream":
        """Join texts."""
        ids = [i for text in tokenizer.encode_batch(texts) for i in (*text, tokenizer.stop)]
        return cls(torch.tensor(ids), tokenizer.pad)

    @property
    def entropy(self) -> float:
        """The loss of predicting every token by its frequency, in nats per token."""
        return float(torch.special.entr(self.tokens.bincount() / len(self.tokens)).sum())

    def windows(self, length: int, batch: int, seed: int) -> Iterator[TokenBatch]:
        """Yield windows at random positions, without end."""
        starts = torch.Generator().manual_seed(seed)
        views = self.tokens.unfold(0, length + 1, 1)
        while True:
            chosen = views[torch.randint(len(views), (batch,), generator=starts)]
            yield collate_causal(chosen.tolist(), pad=self.pad)

    def learn(
        self, model: LanguageModel, name: str, training: Training, *, length: int, seed: int = 0
    ) -> History:
        """Train on batches of eight windows."""
        return train(
            model,
            self.windows(length, 8, seed),
            next_token_loss,
            training,
            device="cpu",  # too small for anything else
            callbacks=[Bar(f"{name:34}")],
        )

    @torch.no_grad()
    def loss_by_position(self, model: LanguageModel, length: int) -> Tensor:
        """Return the mean cross-entropy at each position of windows, (length,)."""
        tokens = self.tokens.unfold(0, length + 1, length)
        logits = model(tokens[:, :-1]) @ model.embedding.weight.T  # (B, L, V)
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return losses.mean(0)


def at_start(model: LanguageModel, batch: TokenBatch) -> tuple[list[float], float]:
    """Return each block's gradient norm, and how alike the outputs are: their mean cosine."""
    (next_token_loss(model, batch) / batch.n_targets).backward()
    norms = []
    for block in model.stack.blocks:
        gradients = [p.grad.flatten() for p in block.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))
    with torch.no_grad():
        outputs = F.normalize(model(batch.tokens), dim=-1)
        return norms, float((outputs @ outputs.transpose(1, 2)).mean())
