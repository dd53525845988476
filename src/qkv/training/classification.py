"""The loss of texts that have one class each."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.errors import DataError


@runtime_checkable
class ClassBatch(Protocol):
    """Texts, or pairs of texts, and the class of each; the mask is True at real tokens."""

    tokens: Int[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    segments: Int[Tensor, "batch length"] | None
    classes: Int[Tensor, " batch"]


def classification_loss(
    model: nn.Module, batch: ClassBatch, *, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Sum of the cross-entropies of the rows' classes (Devlin et al. 2019, section 4.1).

    Label smoothing as in Szegedy et al. (2016), section 7: (1 - smoothing) of the weight on the
    right class, the rest spread evenly over all classes.

    Args:
        model: gives logits (batch, classes), such as a `SequenceClassifier`.
        batch: rows with their classes.
        smoothing: share of the weight that is spread, between 0 and 1.

    Raises:
        DataError: a class that the model does not have (looked at on the CPU only: elsewhere
            looking would wait for the device, which checks by itself).
    """
    logits = model(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)  # (B, C)
    n_classes = logits.shape[1]
    if batch.classes.device.type == "cpu":
        low, high = (int(x) for x in batch.classes.aminmax())
        if low < 0 or high >= n_classes:
            raise DataError(
                f"classes from {low} to {high} were given, but the model has {n_classes}, "
                "counted from 0; was its head built for other labels?"
            )
    return F.cross_entropy(logits, batch.classes, reduction="sum", label_smoothing=smoothing)
