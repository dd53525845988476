"""What ViT and DeiT are made of, images of other sizes, and what they refuse."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import assert_close, randomized, unchecked

from qkv.blocks.dropout import Dropout
from qkv.errors import ConfigError, ShapeError
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import (
    DistilledClassifier,
    ViT,
    ViTConfig,
    embed_patches,
    initialize_by_width,
    resize_positions,
)

B, C, D, CLASSES = 3, 2, 22, 5
IMAGE, PATCH = (34, 15), (17, 3)  # 2 rows of 5 patches
N = 10


def config(**options):
    sizes = {"image_size": IMAGE, "patch_size": PATCH, "n_channels": C, "d_model": D}
    return ViTConfig(**{**sizes, "n_heads": 11, "d_ff": 29, "n_layers": 2, **options})


def vit(**options):
    return randomized(ViT(config(**options)))


def images(height=34, width=15):
    return torch.randn(B, C, height, width, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "before"),
    [({}, 1), ({"distillation_token": True}, 2), ({"class_token": False}, 0)],
)
def test_shapes(options, before):
    assert vit(**options)(images()).shape == (B, before + N, D)


def unfold_patches(x):
    """x_p of Dosovitskiy et al., section 3.1: patches row by row, each a vector."""
    return F.unfold(x, PATCH, stride=PATCH).mT


@pytest.mark.parametrize("size", [(34, 15), (36, 16), (50, 17)])
def test_patches_by_convolution_and_by_unfolding_are_equal(size):
    x, weight, bias = images(*size), torch.randn(D, C, *PATCH).double(), torch.randn(D).double()
    unfolded = unfold_patches(x)
    assert unfolded.shape == (B, N, C * 17 * 3)
    assert_close(embed_patches(x, weight, bias), F.linear(unfolded, weight.flatten(1), bias))


def test_patches_are_read_row_by_row():
    x = images()
    unfolded = unfold_patches(x).unflatten(2, (C, *PATCH))
    for row, column in ((0, 0), (0, 3), (1, 2)):
        patch = x[:, :, 17 * row : 17 * (row + 1), 3 * column : 3 * (column + 1)]
        assert torch.equal(unfolded[:, 5 * row + column], patch)


def test_it_is_tokens_patches_positions_stack():
    model, x = vit(distillation_token=True), images()
    patches = F.linear(unfold_patches(x), model.patches.weight.flatten(1))
    tokens = torch.cat((model.class_token, model.distillation_token), 1).expand(B, -1, -1)
    embedded = torch.cat((tokens, patches + model.patches.bias), 1) + model.positions
    assert_close(model(x), model.stack(embedded))


def test_the_class_token_knows_places_by_their_positions_only():
    model, x = vit(), images()
    before = model(x)
    swapped = x.clone()
    swapped[:, :, :17, 3:6], swapped[:, :, 17:, 9:12] = x[:, :, 17:, 9:12], x[:, :, :17, 3:6]
    assert (model(swapped)[:, 0] - before[:, 0]).abs().max() > 1e-3
    first, second = 1 + 1, 1 + 5 + 3
    table = model.positions.data
    table[:, [first, second]] = table[:, [second, first]]
    after = model(swapped)
    assert_close(after[:, 0], before[:, 0])
    assert_close(after[:, [second, first]], before[:, [first, second]])


def test_published_sizes():
    def size(model):
        return sum(p.numel() for p in model.parameters())

    with torch.device("meta"):
        assert size(SequenceClassifier(ViT(ViTConfig()), 1000, pool="first")) == 86_567_656
        deit = ViT(ViTConfig(distillation_token=True))
        assert size(DistilledClassifier(deit, 1000)) == 87_338_192


def keys_kernel(x, a=-0.75):
    """The cubic of Keys 1981, eq. 4 with its parameter a: 1 at 0, and 0 at the other integers."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(grid, size):
    """Each new place is a mean of the 4 x 4 old ones around it; the edge is repeated outwards."""
    for axis, n_new in enumerate(size):
        n_old = grid.shape[axis]
        matrix = torch.zeros(n_new, n_old, dtype=grid.dtype)
        for new in range(n_new):
            place = (new + 0.5) * n_old / n_new - 0.5
            for old in range(int(place // 1) - 1, int(place // 1) + 3):
                matrix[new, min(max(old, 0), n_old - 1)] += keys_kernel(place - old)
        grid = torch.tensordot(matrix, grid.movedim(axis, 0), 1).movedim(0, axis)
    return grid


@pytest.mark.parametrize("n_before", [0, 1, 2])
@pytest.mark.parametrize("new", [(3, 7), (1, 2), (5, 2), (4, 10)])
def test_positions_of_another_grid_are_interpolated(new, n_before):
    table = torch.randn(1, n_before + N, 3, dtype=torch.float64)
    resized = resize_positions(table, (2, 5), new)
    assert torch.equal(resized[:, :n_before], table[:, :n_before])
    places = bicubic(table[0, n_before:].unflatten(0, (2, 5)), new)
    assert_close(resized[0, n_before:].unflatten(0, new), places)


def test_positions_of_the_same_grid_are_those_that_were_learned():
    model = vit()
    assert resize_positions(model.positions, (2, 5), (2, 5)) is model.positions
    # What is left over at the far edges makes no patch.
    x = images(50, 17)
    assert_close(model(x), model(x[..., :34, :15]))


def test_an_image_of_another_size():
    model, x = vit(distillation_token=True), images(51, 22)
    larger = vit(distillation_token=True, image_size=(51, 22))
    weights = model.state_dict()
    weights["positions"] = resize_positions(model.positions, (2, 5), (3, 7))
    larger.load_state_dict(weights)
    assert_close(model(x), larger(x))


def test_a_number_is_height_and_width():
    assert config(image_size=21, patch_size=5).grid == (4, 4)
    assert config(image_size=(21, 13), patch_size=5).grid == (4, 2)
    assert ViTConfig().grid == (14, 14)


def test_class_token_or_mean():
    x = images()
    for options, pool in (({}, "first"), ({"class_token": False}, "mean")):
        model = vit(**options)
        classifier = randomized(SequenceClassifier(model, CLASSES, pool=pool))
        hidden = model(x)
        vector = hidden[:, 0] if pool == "first" else hidden.mean(1)
        assert_close(classifier(x), classifier.classifier.output(vector))


def test_the_pooler_reads_the_class_token():
    model = vit(pooler=True)
    hidden = model(images())
    assert_close(model.pool(hidden), torch.tanh(model.pooler(hidden[:, 0])))
    with pytest.raises(ShapeError, match="has no pooler; use the class token or the mean"):
        vit().pool(hidden)


def test_two_heads_of_two_tokens():
    encoder = vit(distillation_token=True)
    weights = {name: p.clone() for name, p in encoder.named_parameters()}
    model = DistilledClassifier(encoder, CLASSES)
    assert all(torch.equal(p, weights[name]) for name, p in encoder.named_parameters())
    randomized(model)
    hidden = model.hidden(images())
    labels, teacher = model.score_both(hidden)
    assert_close(labels, model.classifier(hidden[:, 0]))
    assert_close(teacher, model.distilled(hidden[:, 1]))
    assert_close(model.score(hidden), (labels + teacher) / 2)


def test_it_starts_small():
    torch.manual_seed(0)
    model = ViT(config(d_model=220, patch_size=(2, 3), pooler=True, distillation_token=True))
    for name in ("patches.weight", "positions", "class_token", "distillation_token"):
        assert model.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.15)
    for name in ("pooler.weight", "stack.blocks.1.self_attention.query.weight"):
        assert model.get_parameter(name).std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.patches.bias.any()


def test_each_dropout_reaches_its_place():
    model = ViT(config(dropout=0.1, attention_dropout=0.2))
    sites = [m.p for m in model.modules() if isinstance(m, Dropout)]
    assert sites == [0.1] * 5
    assert model.stack.blocks[1].self_attention.dropout == 0.2


@pytest.mark.parametrize("shape", [(B, 3, 34, 15), (C, 34, 15), (B, 34, 15, C)])
def test_what_are_no_such_images_is_refused(shape):
    message = r"images have shape \(.*\); expected \(batch, 2, height, width\)"
    with unchecked(), pytest.raises(ShapeError, match=message):
        vit()(torch.zeros(shape, dtype=torch.float64))


def test_images_without_a_patch_are_refused():
    with pytest.raises(ShapeError, match="16 x 15 pixels are smaller than one patch, 17 x 3"):
        vit()(images(16, 15))


def test_bad_configs_are_refused():
    with pytest.raises(ConfigError, match="image_size = 13 is smaller than patch_size = 14"):
        ViTConfig(image_size=13, patch_size=14)
    for name in ("pooler", "distillation_token"):
        with pytest.raises(ConfigError, match=f"{name} = True needs class_token = True"):
            ViTConfig(class_token=False, **{name: True})


@pytest.mark.parametrize("width", [1, 3, 7])  # of an attention head
def test_started_by_width_what_blocks_read_has_one_size_at_any_width(width):
    torch.manual_seed(width)
    heads = 31
    model = ViT(config(d_model=heads * width, n_heads=heads, d_ff=101)).double()
    initialize_by_width(model)
    patches = model.patches(torch.randn(101, C, *IMAGE, dtype=torch.float64))
    for seen in (patches, model.positions):
        assert 0.8 < seen.std() < 1.2
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.bias is None or not module.bias.any(), name
            x = torch.randn(101, module.in_features, dtype=torch.float64)
            assert 0.6 < F.linear(x, module.weight).std() < 0.8, name  # the mean of squares halves


def test_as_published_positions_are_smaller_than_patches():
    model = ViT(config(d_model=93, n_heads=31)).double()
    patches = model.patches(torch.randn(101, C, *IMAGE, dtype=torch.float64))
    assert model.positions.std() < patches.std() / 5
