"""The kind and the sizes of a new translator: recurrent, or a Transformer of 2017 or of today."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from qkv.errors import ConfigError
from qkv.models.marian import Marian, MarianConfig
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.seq2seq import Seq2Seq
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.seq2seq import Sizes

RECURRENT: dict[str, Any] = {
    "recurrent": {"decoder": "luong", "score": None},
    "bahdanau": {"decoder": "bahdanau", "score": "additive"},
    "luong": {"decoder": "luong", "score": "general"},
}


@dataclass(frozen=True, kw_only=True)
class TranslatorSizes(Sizes):
    """The kind and the sizes of a translator.

    The model is a Marian, unless an option is set that Marian's files do not have; then it is a
    `Transformer`, or an `RNNSeq2Seq` of GRUs. In a recurrent model, d_model is the width of the
    embeddings and d_ff the width of the hidden states; heads and layers have no effect.

    Args:
        kind: transformer, or a recurrent encoder-decoder: without attention, with the additive
            attention of Bahdanau et al. 2015, or with the general score of Luong et al. 2015.
        norm: layer norm or RMS norm.
        norm_first: normalize the input of each sublayer (pre-norm), instead of its sum with the
            residual.
        rotary_base: base of rotary positions, which replace the sinusoids; None: sinusoids.

    Raises:
        ConfigError: an option of Transformers with a recurrent kind.
    """

    kind: Literal["transformer", "recurrent", "bahdanau", "luong"] = "transformer"
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = False
    rotary_base: float | None = None

    def __post_init__(self) -> None:
        """Check that a recurrent model has no options of Transformers."""
        if self.kind != "transformer" and not self._as_marian():
            raise ConfigError(
                f"kind = {self.kind} with norm = {self.norm}, norm_first = {self.norm_first} and "
                f"rotary_base = {self.rotary_base}; expected their defaults: a recurrent model "
                "has neither norms nor positions"
            )

    def _as_marian(self) -> bool:
        return (self.norm, self.norm_first, self.rotary_base) == ("layer", False, None)

    def build(self, vocab_size: int, n_positions: int) -> Seq2Seq[Any]:
        """Build the model with new weights.

        Args:
            vocab_size: number of tokens, of both languages together.
            n_positions: maximum length, which the files of a Marian contain.
        """
        sizes: dict[str, Any] = {"source_vocab_size": vocab_size, "target_vocab_size": vocab_size}
        if self.kind != "transformer":
            sizes |= {"d_embedding": self.d_model, "d_hidden": self.d_ff, "dropout": self.dropout}
            return RNNSeq2Seq(RNNConfig(**sizes, **RECURRENT[self.kind]))
        options: dict[str, Any] = asdict(self) | sizes
        del options["kind"]
        if self._as_marian():
            return Marian(MarianConfig(n_positions=n_positions, **options))
        return Transformer(TransformerConfig(shared_embeddings=True, output_bias=True, **options))
