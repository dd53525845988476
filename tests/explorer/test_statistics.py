import pytest
import torch

from qkv.explorer.statistics import (
    distribution,
    head_stats,
    neighbors,
    patch_distances,
    principal_components,
    thumbnails,
    token_distances,
)


def test_statistics_computed_by_hand():
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    stats = head_stats(weights, token_distances(2, 2), torch.tensor([True, False]))
    assert stats.entropy.item() == pytest.approx(0.5 * torch.tensor(2.0).log().item())
    assert stats.distance.item() == 0.25
    assert stats.special.item() == stats.first.item() == 0.75


def test_patches_have_distances_on_the_grid():
    distances = patch_distances((2, 3), 1)
    assert distances.shape == (7, 7)
    assert not distances[0].any()
    assert distances[1, 6].item() == pytest.approx(5**0.5)


@pytest.mark.parametrize("shape", [(5, 11), (11, 5), (1, 7), (2, 3)])
def test_principal_components_are_those_of_the_singular_values(shape):
    states = torch.randn(shape)
    points, explained = principal_components(states)
    centered = (states - states.mean(0)).double()
    singular = torch.linalg.svdvals(centered)
    assert points.shape == (shape[0], 2)
    norms = torch.linalg.vector_norm(points.double(), dim=0)
    expected = torch.nn.functional.pad(singular, (0, 2))[:2]
    assert torch.allclose(norms, expected, atol=1e-4)
    assert torch.allclose(explained.double(), expected**2 / (singular**2).sum().clamp(1e-30))
    assert (points.gather(0, points.abs().argmax(0, keepdim=True)) >= 0).all()


def test_neighbors_are_the_nearest_others():
    states = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    indices, similarity = neighbors(states, 1)
    assert indices.flatten().tolist() == [1, 0, 1]
    assert similarity[0, 0] > 0.99


def test_a_thumbnail_has_the_maximum_of_each_rectangle():
    weights = torch.rand(3, 200, 7)
    small = thumbnails(weights)
    assert small.shape == (3, 64, 7)
    assert torch.equal(small.amax((1, 2)), weights.amax((1, 2)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_tail_gives_the_sum_at_any_temperature(temperature):
    logits = torch.randn(2, 1009) * 3
    ids, kept, tail = distribution(logits, most=101)
    assert torch.equal(kept, logits.gather(1, ids))
    exact = (logits / temperature).logsumexp(-1)
    ours = torch.cat((kept / temperature, tail[:, 0] / temperature + tail[:, 1].log()), 1)
    bound = 1e-5 if temperature == 1 else 1e-3
    assert torch.allclose(ours.logsumexp(-1), exact, atol=bound)


def test_few_candidates_have_no_tail():
    ids, kept, tail = distribution(torch.randn(2, 5), most=7)
    assert (ids.shape, kept.shape, tail.shape) == ((2, 5), (2, 5), (2, 2, 0))
