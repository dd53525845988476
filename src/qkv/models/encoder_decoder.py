"""The base class of encoder-decoder Transformers.

Shapes: B batch, S source tokens, T target tokens, n new tokens, D d_model.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention.masks import attention_mask, check_tokens, token_positions
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState
from qkv.models.seq2seq import Seq2Seq


class EncoderDecoder(Seq2Seq[DecodingState]):
    """An encoder of the source, and a decoder that attends to it and predicts target tokens.

    A family builds both stacks and the output layer, and defines how tokens are embedded.
    """

    encoder: Stack
    decoder: Stack

    def hidden(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Run the encoder and the decoder; return the hidden states for the output layer."""
        memory = self.encode(source, source_mask)
        check_tokens(target, memory.shape[0])
        positions = token_positions(target, target_mask)
        return self.decoder(
            self.embed_target(target, positions),
            memory,
            mask=attention_mask(target_mask),
            memory_mask=attention_mask(source_mask),
            positions=positions,
        )

    def encode(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """Run the encoder; return the memory that the decoder attends to."""
        positions = token_positions(source, token_mask)
        x = self.embed_source(source, positions)
        return self.encoder(x, mask=attention_mask(token_mask), positions=positions)

    def start(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> DecodingState:
        """Encode the source; return the state for `step`."""
        caches = self.decoder.new_caches()
        return DecodingState(caches, self.encode(source, token_mask), token_mask)

    def advance(
        self,
        tokens: Int[Tensor, "B n"],
        state: DecodingState,
        token_mask: Bool[Tensor, "B n"] | None,
    ) -> Float[Tensor, "B n D"]:
        """Run the decoder on new tokens, which follow those in the state."""
        mask, positions = state.advance(tokens, token_mask)
        return self.decoder(
            self.embed_target(tokens, positions),
            state.memory,
            mask=mask,
            memory_mask=state.memory_mask,
            positions=positions,
            caches=state.caches,
        )

    def embed_source(
        self, tokens: Int[Tensor, "B S"], positions: Int[Tensor, "*B S"]
    ) -> Float[Tensor, "B S D"]:
        """Embed tokens as the input of the encoder."""
        raise NotImplementedError(f"{type(self).__name__} does not define embed_source")

    def embed_target(
        self, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T D"]:
        """Embed tokens as the input of the decoder."""
        raise NotImplementedError(f"{type(self).__name__} does not define embed_target")

    def without_head(self) -> "EncoderDecoder":
        """Remove the output layer, to add another head; `forward` then equals `hidden`."""
        self.head = nn.Identity()
        return self

    def extra_repr(self) -> str:
        """Show the options that no submodule shows."""
        return "without head" if isinstance(self.head, nn.Identity) else ""


def shift_right(
    tokens: Int[Tensor, "B L"], token_mask: Bool[Tensor, "B L"] | None, *, start: int | None
) -> Int[Tensor, "B L"]:
    """Replace each token with the previous real token, wherever the padding is.

    Args:
        tokens: ids.
        token_mask: True = a real token; None if all are.
        start: id for the first position; None means the row's last real token.
    """
    real = torch.ones_like(tokens, dtype=torch.bool) if token_mask is None else token_mask
    places = torch.arange(tokens.shape[1], device=tokens.device)
    latest = torch.where(real, places, -1).cummax(1).values  # the last real position up to each
    before = F.pad(latest[:, :-1], (1, 0), value=-1)
    first = tokens.gather(1, latest[:, -1:].clamp(min=0))
    if start is not None:
        first = torch.full_like(first, start)
    return torch.where(before < 0, first, tokens.gather(1, before.clamp(min=0)))
