"""Temperature scaling."""

import numpy as np
import pytest
from scipy.special import softmax

from qkv.errors import DataError
from qkv.evaluation.classification import classification_report
from qkv.evaluation.temperature import RANGE, fit_temperature


def drawn(temperature, n=20_000):
    """Return probabilities that are too sure by a factor, and classes drawn from the true ones."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(n, 3)) * 2
    truth = [generator.choice(3, p=row) for row in softmax(logits, axis=1)]
    return softmax(logits * temperature, axis=1), truth


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_classes_is_found(temperature):
    probabilities, truth = drawn(temperature)
    assert fit_temperature(probabilities, truth) == pytest.approx(temperature, rel=0.05)


def test_calibration_improves_and_no_prediction_changes():
    probabilities, truth = drawn(3.0)
    scaled = softmax(np.log(probabilities) / fit_temperature(probabilities, truth), axis=1)
    before = classification_report(truth, probabilities, ["a", "b", "c"])
    after = classification_report(truth, scaled, ["a", "b", "c"])
    assert before.calibration_error > 0.1 > 0.02 > after.calibration_error
    assert after.accuracy == before.accuracy
    assert after.loss < before.loss


def test_classes_that_are_all_right_or_all_wrong_stay_in_the_range():
    rows = np.array([[0.9, 0.1]] * 5)
    assert fit_temperature(rows, [0] * 5) == pytest.approx(RANGE[0], rel=0.01)
    assert fit_temperature(rows, [1] * 5) == pytest.approx(RANGE[1], rel=0.01)


def test_nothing_to_fit():
    with pytest.raises(DataError, match="0 rows of probabilities for 0 classes"):
        fit_temperature(np.zeros((0, 2)), [])
    with pytest.raises(DataError, match="2 rows of probabilities for 1 classes"):
        fit_temperature(np.ones((2, 2)) / 2, [0])
