import torch

from qkv.data.augmentation import Augmentation
from qkv.models.vit import ViTConfig
from qkv.tutorial.digits import train_digits

CONFIG = ViTConfig(
    image_size=16, patch_size=8, n_channels=1, d_model=22, n_heads=2, d_ff=26, n_layers=1
)


def test_the_loss_falls_and_the_other_half_is_for_testing():
    torch.manual_seed(0)
    asked = []
    digits = train_digits(CONFIG, Augmentation(shift=1), lambda n: asked.append(n) or 30)
    assert asked == [200 * -(-len(digits.splits.train) // 64)]  # 200 epochs
    assert len(digits.history.losses) == 30
    assert sum(digits.history.losses[-5:]) < sum(digits.history.losses[:5])
    assert digits.pixels.shape == (len(digits.splits.train), 1, 16, 16)
    scores = digits.recognizer.evaluate(digits.splits.test)
    assert scores.accuracy > 0.12
    assert scores.count == 899
