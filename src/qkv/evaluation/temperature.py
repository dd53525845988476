"""Temperature scaling, which calibrates the probabilities of a classifier."""

from collections.abc import Sequence

import numpy as np

from qkv.errors import DataError, MissingDependencyError

RANGE = 0.2, 20.0  # a validation split without errors would ask for a temperature of 0


def fit_temperature(probabilities: np.ndarray, truth: Sequence[int] | np.ndarray) -> float:
    """Return the temperature that minimizes the loss of softmax(logits / temperature).

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. A temperature above 1
    makes an overconfident classifier less confident; no prediction changes.

    Args:
        probabilities: (examples, classes), each row a softmax of logits.
        truth: index of each example's class.

    Raises:
        DataError: there are no examples, or the sizes differ.
        MissingDependencyError: SciPy is not installed.
    """
    rows, classes = np.asarray(probabilities, dtype=np.float64), np.asarray(truth, dtype=int)
    if not len(classes) or len(rows) != len(classes):
        raise DataError(
            f"{len(rows)} rows of probabilities for {len(classes)} classes; expected the same "
            "number, at least one"
        )
    try:
        from scipy.optimize import minimize_scalar
        from scipy.special import log_softmax
    except ImportError as error:
        raise MissingDependencyError('calibration needs SciPy: pip install "qkv[train]"') from error
    logits = np.log(np.maximum(rows, np.finfo(np.float64).tiny))  # up to a constant per row

    def loss(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scores[np.arange(len(classes)), classes].mean())

    best = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(best.x))
