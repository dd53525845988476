"""Losses of texts and images that have one class each."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.data.augmentation import ImageBatch
from qkv.data.classification import ClassificationBatch
from qkv.errors import DataError


def classification_loss(
    model: nn.Module, batch: ClassificationBatch, *, smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Sum over the texts of the cross-entropy of their classes (Devlin et al. 2019, section 4.1).

    Texts with several classes, whose targets are a 0 or 1 for each class, count with the mean over
    the classes of the binary cross-entropy. Label smoothing as in Szegedy et al. (2016), section 7:
    (1 - smoothing) of the weight on the right class, the rest spread evenly over all classes; of
    several classes each is a choice of two.

    Args:
        model: returns logits (batch, classes), such as a `SequenceClassifier`.
        batch: texts, or pairs of texts, with their classes.
        smoothing: share of the weight that is spread, between 0 and 1.

    Raises:
        DataError: the batch has no classes, another number of them, or one that the model does not
            have (checked on the CPU only: elsewhere the check would wait for the device, which
            checks by itself).
    """
    logits = model(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)  # (B, C)
    classes, n_classes = batch.classes, logits.shape[1]
    if classes is None:
        raise DataError("the batch has no classes: it was made for prediction, not for training")
    if classes.is_floating_point():
        if classes.shape != logits.shape:
            raise DataError(
                f"targets of {classes.shape[1]} classes, but the model has {n_classes}; was its "
                "head built for other labels?"
            )
        classes = classes.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        total = F.binary_cross_entropy_with_logits(logits, classes, reduction="sum")
        return total / n_classes
    if classes.device.type == "cpu":
        low, high = (int(x) for x in classes.aminmax())
        if low < 0 or high >= n_classes:
            raise DataError(
                f"classes range from {low} to {high}, but the model has {n_classes}, "
                "counted from 0; was its head built for other labels?"
            )
    return F.cross_entropy(logits, classes, reduction="sum", label_smoothing=smoothing)


def image_loss(model: nn.Module, batch: ImageBatch, *, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Sum the cross-entropies of the images' classes, smoothed as for texts."""
    logits = model(batch.pixels)  # (B, C)
    return F.cross_entropy(logits, batch.classes, reduction="sum", label_smoothing=smoothing)
