"""ViT: an image encoder that treats an image as a sequence of patches (Dosovitskiy et al. 2021).

DeiT (Touvron et al. 2021) adds a token that learns from a teacher.

Shapes: B batch, C channels, H height, W width, N patches, P numbers per patch, L tokens (special
tokens and patches), D d_model, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from qkv.blocks.config import BlockConfig
from qkv.blocks.dropout import Dropout
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError, ShapeError
from qkv.models.heads import ModelWithHead
from qkv.models.initialization import initialize
from qkv.models.pooling import first_token


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The configuration of the encoder; the defaults are ViT-B/16.

    Raises:
        ConfigError: if an image has no patch, or an option needs the missing class token.
    """

    image_size: int | tuple[int, int] = 224  # in training; one number, or height and width
    patch_size: int | tuple[int, int] = 16
    n_channels: int = 3
    class_token: bool = True  # False: patches only, which are averaged (appendix D.3)
    distillation_token: bool = False  # DeiT
    d_model: int = 768
    n_heads: int = 12
    d_ff: int = 3072
    n_layers: int = 12
    activation: Literal["relu", "gelu", "gelu_tanh", "silu"] = "gelu"
    norm_eps: float = 1e-12
    qkv_bias: bool = True
    pooler: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the options that no submodule can check alone."""
        if min(pair(self.patch_size)) < 1:
            raise ConfigError(f"patch_size = {self.patch_size}; expected at least 1")
        if 0 in self.grid:
            raise ConfigError(
                f"image_size = {self.image_size} is smaller than patch_size = {self.patch_size}"
            )
        for name in ("pooler", "distillation_token"):
            if getattr(self, name) and not self.class_token:
                raise ConfigError(f"{name} = True needs class_token = True")

    @property
    def grid(self) -> tuple[int, int]:
        """The number of rows and columns of patches in a training image."""
        return grid(pair(self.image_size), pair(self.patch_size))

    def block(self) -> BlockConfig:
        """Return the configuration of every block."""
        return BlockConfig(
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_ff=self.d_ff,
            norm_first=True,
            norm_eps=self.norm_eps,
            feed_forward=self.activation,
            qkv_bias=self.qkv_bias,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def grid(image_size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, int]:
    """Return the number of rows and columns of whole patches; the remaining edges are ignored."""
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]


def embed_patches(
    images: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "D C height width"],
    bias: Float[Tensor, " D"],
) -> Float[Tensor, "B N D"]:
    """x_p E of eq. 1: a linear layer on every patch, as a convolution with the patch as stride."""
    return F.conv2d(images, weight, bias, stride=weight.shape[2:]).flatten(2).mT


def resize_positions(
    table: Float[Tensor, "1 before D"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 after D"]:
    """Interpolate the position embeddings of one patch grid for another (section 3.2), bicubically.

    The vectors before the grid belong to special tokens and do not change.
    """
    if new == old:
        return table
    n_before = table.shape[1] - old[0] * old[1]
    before, places = table[:, :n_before], table[:, n_before:]
    image = places.unflatten(1, old).permute(0, 3, 1, 2)  # (1, D, rows, columns)
    image = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return torch.cat((before, image.flatten(2).mT), 1)


class PatchEmbedding(nn.Module):
    """`embed_patches` with its parameters."""

    def __init__(self, n_channels: int, patch_size: tuple[int, int], d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, n_channels, *patch_size))
        self.bias = nn.Parameter(torch.zeros(d_model))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """Embed the patches.

        Raises:
            ShapeError: if the images have the wrong number of channels, or are smaller than a
                patch.
        """
        n_channels, height, width = self.weight.shape[1:]
        if images.ndim != 4 or images.shape[1] != n_channels:
            raise ShapeError(
                f"images have shape {tuple(images.shape)}; expected (batch, "
                f"{n_channels}, height, width), as the model was trained"
            )
        if 0 in grid(images.shape[2:], (height, width)):
            raise ShapeError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels are smaller than "
                f"one patch, {height} x {width}"
            )
        return embed_patches(images, self.weight, self.bias)


def vectors(n: int, d_model: int) -> nn.Parameter:
    """Return n learned vectors, the same for every image."""
    return nn.Parameter(nn.init.normal_(torch.empty(1, n, d_model), std=0.02))


class ViT(nn.Module):
    """Patches, learned positions and a stack of pre-norm blocks.

    Dosovitskiy et al. 2021, eq. 1 to 4. For images of another size than in training, the position
    embeddings are interpolated.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patches = PatchEmbedding(config.n_channels, pair(config.patch_size), config.d_model)
        n_patches, d_model = config.grid[0] * config.grid[1], config.d_model
        self.class_token = vectors(1, d_model) if config.class_token else None
        self.distillation_token = vectors(1, d_model) if config.distillation_token else None
        n_tokens = config.class_token + config.distillation_token + n_patches
        self.positions = vectors(n_tokens, d_model)
        self.dropout = Dropout(config.dropout)
        self.stack = Stack(config.block(), config.n_layers)
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None
        self.apply(initialize)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L D"]:
        """Encode each patch in its image, after the class token and the distillation token."""
        patches = self.patches(images)
        tokens = [
            token.expand(images.shape[0], -1, -1)
            for token in (self.class_token, self.distillation_token)
            if token is not None
        ]
        x = torch.cat((*tokens, patches), 1)
        new = grid(images.shape[2:], pair(self.config.patch_size))
        return self.stack(self.dropout(x + resize_positions(self.positions, self.config.grid, new)))

    def pool(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B D"]:
        """Pool an image to the state of its class token: tanh(W h_0 + b).

        Raises:
            ShapeError: if the model has no pooler, like models fine-tuned for classification.
        """
        if self.pooler is None:
            raise ShapeError("this model has no pooler; use the class token or the mean instead")
        return torch.tanh(self.pooler(first_token(hidden, token_mask)))


def initialize_by_width(vit: ViT) -> None:
    """Initialize a narrow model with variances that suit its width, and biases with zero.

    Matrices from N(0, 1 / 2n) for n inputs, the patch projection from N(0, 1 / n), positions from
    N(0, 1). ViT's N(0, 0.02^2) suits n near 1,000. Every block normalizes the sum of patch and
    position, which would hide the smaller of the two: both have scale 1 here. The variance 1 / n is
    that of LeCun et al. 1998, "Efficient BackProp", section 4.6; half of it is our choice.

    Args:
        vit: modified in place.
    """
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            initialize(module, std=(2 * module.in_features) ** -0.5)
    nn.init.normal_(vit.patches.weight, std=vit.patches.weight[0].numel() ** -0.5)
    nn.init.normal_(vit.positions)


class DistilledClassifier(ModelWithHead):
    """Two heads: the class token learns the labels, the distillation token a teacher's predictions.

    Touvron et al. 2021, section 4. The logits are the mean of both heads'.
    """

    def __init__(self, encoder: ViT, n_classes: int):
        super().__init__(encoder)
        self.n_classes = n_classes
        self.classifier = nn.Linear(encoder.config.d_model, n_classes)
        self.distilled = nn.Linear(encoder.config.d_model, n_classes)
        for head in (self.classifier, self.distilled):
            initialize(head)

    def score(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B K"]:
        """Return the mean logits of both heads."""
        return torch.stack(self.score_both(hidden)).mean(0)

    def score_both(
        self, hidden: Float[Tensor, "B L D"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """Return the logits of each head, for a loss on the labels and a loss on the teacher's."""
        return self.classifier(hidden[:, 0]), self.distilled(hidden[:, 1])
