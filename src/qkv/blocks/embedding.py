"""Token embeddings."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention.masks import check_tokens
from qkv.errors import VocabularyError


class TokenEmbedding(nn.Embedding):
    """A table with one vector per token, times `scale`.

    The scale is sqrt(d_model) in Vaswani et al. 2017, section 3.4.

    Raises:
        ShapeError: in `forward`, if the input is not ids of shape (batch, length).
        VocabularyError: in `forward` on a CPU, if an id is outside the table. (An accelerator
            stops with its own error, later and without the id.)
    """

    def __init__(self, vocab_size: int, d_model: int, *, scale: float = 1.0):
        super().__init__(vocab_size, d_model)
        self.scale = scale
        # Scaled vectors then start with unit variance, as do the logits of a tied output layer.
        nn.init.normal_(self.weight, std=1 / scale)

    def forward(self, input: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length D"]:
        """Look up each token."""
        check_tokens(input)
        try:
            vectors = super().forward(input)
        except IndexError:
            # Trying PyTorch first costs nothing for valid input.
            raise unknown_token(input, self.num_embeddings) from None
        return vectors if self.scale == 1 else vectors * self.scale


def unknown_token(tokens: Int[Tensor, "batch length"], vocab_size: int) -> VocabularyError:
    """Return the error for ids outside the vocabulary."""
    return VocabularyError(
        f"got token ids from {int(tokens.min())} to {int(tokens.max())}, but the vocabulary has "
        f"{vocab_size} (ids 0 to {vocab_size - 1}); is this the tokenizer for which the model was "
        "built?"
    )
