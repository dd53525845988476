"""kill -9 twice, once after a checkpoint; `make soak` does fifty at random moments."""

from tools.soak import soak


def test_a_run_killed_at_random_moments_ends_with_the_weights_of_the_whole_run(tmp_path):
    found = soak(tmp_path, kills=2, seed=1)
    assert found["compared"] >= 1
    assert found["resumed"] >= 1
