from benchmarks._common import ratios


def test_ratios_are_medians_of_the_rounds_and_not_ratios_of_the_medians():
    seconds = {"ours": [1.0, 2.0, 4.0], "rival": [3.0, 8.0, 4.0]}
    assert ratios(seconds, "ours") == {"rival": 3.0}
