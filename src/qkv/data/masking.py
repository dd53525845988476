"""Masking of tokens for masked language modeling."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qkv.data.batches import Batches, Batching, bucketed_batches
from qkv.data.pretraining import MaskedExample, TokenBatch, collate_targets
from qkv.errors import ConfigError, VocabularyError


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Mask tokens as BERT does (Devlin et al. 2019, appendix A.1).

    In each text a fraction of the words is selected, at least one. Of the selected tokens 80 %
    become the mask token, 10 % a random token, and 10 % stay, so that a model cannot rely on its
    inputs there. Each call selects other tokens: dynamic masking (Liu et al. 2019, section 4.1).

        names = tokenizer.tokens(range(tokenizer.vocab_size))
        Masking(
            mask=tokenizer.mask,
            vocab_size=tokenizer.vocab_size,
            special=tokenizer.special_ids,
            continues=[name.startswith("##") for name in names],  # whole words, of WordPiece
        )

    Args:
        mask: id of the mask token.
        vocab_size: number of ids.
        special: ids that are neither selected nor drawn, such as start, separator and padding.
        share: fraction of the words that is selected.
        masked: fraction of the selected tokens that become the mask token.
        random: fraction of the selected tokens that become a random token.
        continues: for each id, whether it continues a word, as "##ing" does; then whole words are
            selected, as for the later models of BERT. None: each token is a word.

    Raises:
        ConfigError: a fraction is out of range, or `continues` has another size.
    """

    mask: int
    vocab_size: int
    special: Collection[int]
    share: float = 0.15
    masked: float = 0.8
    random: float = 0.1
    continues: Sequence[bool] | None = None

    def __post_init__(self) -> None:
        """Check the shares and the sizes."""
        shares = (self.share, self.masked, self.random, self.masked + self.random)
        if not (self.share > 0 and all(0 <= share <= 1 for share in shares)):
            raise ConfigError(
                f"share = {self.share}, masked = {self.masked}, random = {self.random}; expected "
                "fractions between 0 and 1, the last two with a sum of at most 1"
            )
        if self.continues is not None and len(self.continues) != self.vocab_size:
            raise ConfigError(
                f"continues has {len(self.continues)} entries; expected one for each of the "
                f"vocab_size = {self.vocab_size} ids"
            )

    def __call__(self, tokens: Sequence[int], rng: np.random.Generator) -> MaskedExample:
        """Return the masked token ids, the positions of the targets, and the original ids there.

        Raises:
            VocabularyError: an id is outside the vocabulary.
        """
        original = np.asarray(tokens, dtype=np.int64)
        words = self._words(original)
        n_words = int(words.max(initial=-1)) + 1
        if not n_words:
            return tokens, [], []
        n_chosen = max(1, round(self.share * n_words))
        positions = np.flatnonzero(np.isin(words, rng.choice(n_words, n_chosen, replace=False)))
        action = rng.random(len(positions))
        hidden = original.copy()
        hidden[positions[action < self.masked]] = self.mask
        replaced = positions[(self.masked <= action) & (action < self.masked + self.random)]
        hidden[replaced] = rng.choice(self._ordinary, len(replaced))
        return hidden.tolist(), positions.tolist(), original[positions].tolist()

    @cached_property
    def _ordinary(self) -> np.ndarray:
        return np.setdiff1d(np.arange(self.vocab_size), self._special)

    @cached_property
    def _special(self) -> np.ndarray:
        return np.array([self.mask, *self.special])

    @cached_property
    def _continues(self) -> np.ndarray:
        if self.continues is None:
            return np.zeros(self.vocab_size, dtype=bool)
        return np.array(self.continues, dtype=bool)

    def _words(self, tokens: np.ndarray) -> np.ndarray:
        """Return the index of each token's word, -1 for special tokens."""
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            raise VocabularyError(
                f"token ids run from {tokens.min()} to {tokens.max()}, expected 0 to "
                f"{self.vocab_size - 1}: was the text encoded with another tokenizer?"
            )
        special = np.isin(tokens, self._special)
        starts = np.ones(len(tokens), dtype=bool)
        # After a special token, and at the start of a text, a word begins with any piece.
        starts[1:] = special[:-1] | ~self._continues[tokens[1:]]
        return np.where(special, -1, np.cumsum(starts & ~special) - 1)


def masked_batches(
    texts: Sequence[Sequence[int]], masking: Masking, *, pad: int, batching: Batching
) -> Batches[TokenBatch]:
    """Batch texts of similar length, each with different tokens masked in every epoch.

    Args:
        texts: ids, with the start and end tokens of the model.
        masking: chooses the masked tokens.
        pad: id that fills short rows.
        batching: see `bucketed_batches`, also for the errors.
    """

    def make(rows: list[int], rng: np.random.Generator) -> TokenBatch:
        return collate_targets([masking(texts[row], rng) for row in rows], pad=pad)

    return bucketed_batches([(len(text),) for text in texts], make, batching)
