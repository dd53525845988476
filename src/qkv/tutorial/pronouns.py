"""Measure which of two nouns an encoder's heads link to a pronoun."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from qkv.attention.record import record_attention
from qkv.data.coreference import Coreference, Pair
from qkv.data.tokenizers import Tokenizer
from qkv.models.bert import Bert


@dataclass(frozen=True)
class Heads:
    """The heads of an encoder."""

    tokenizer: Tokenizer
    encoder: Bert

    def look(self, sentence: Coreference) -> tuple[list[str], Tensor]:
        """Return the tokens of a sentence, and the weights (layer, head, query, key) over it."""
        ids = self.tokenizer.add_special_tokens(self.tokenizer.encode(sentence.text)).ids
        with torch.inference_mode(), record_attention(self.encoder) as weights:
            self.encoder(torch.tensor([ids]))
        return self.tokenizer.tokens(ids), torch.cat([weights[layer] for layer in weights])

    def leaning(self, sentence: Coreference) -> Tensor:
        """Return how much more weight the first noun gets than the second, (way, layer, head).

        The way is from the pronoun to the nouns, or from them to the pronoun; the unit is the
        logarithm of the ratio.
        """
        tokens, weights = self.look(sentence)
        pronoun = tokens.index(sentence.pronoun)
        nouns = [tokens.index(noun) for noun in sentence.candidates]
        ways = torch.stack((weights[:, :, pronoun, nouns], weights[:, :, nouns, pronoun])).log()
        return ways[..., 0] - ways[..., 1]

    def likeness(self, pair: Pair) -> Tensor:
        """Return by how much each changed word is more like the first noun than the second, (2,).

        It compares embeddings by their cosine, before any layer.
        """
        table = F.normalize(self.encoder.embedding.weight.detach(), dim=-1)
        first, second = (self.tokenizer.encode(sentence.text) for sentence in pair)
        changed = [
            [i for i in one if i not in other] for one, other in ((first, second), (second, first))
        ]
        nouns = torch.cat([table[self.tokenizer.encode(noun)] for noun in pair[0].candidates])
        means = torch.stack([F.normalize(table[ids].mean(0), dim=-1) for ids in changed])
        cosines = means @ nouns.T
        return cosines[:, 0] - cosines[:, 1]
