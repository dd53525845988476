"""What the end of a run says of tests that lack data."""

from types import SimpleNamespace

from tests.conftest import pytest_terminal_summary


def test_tests_without_data_are_one_line_that_says_what_to_set(pytestconfig):
    reasons = ["needs the data sets: set QKV_DATA", "published vocabularies: set QKV_DATA", "GPU"]
    reports = [SimpleNamespace(longrepr=(f"{i}.py", i, reason)) for i, reason in enumerate(reasons)]
    reporter = SimpleNamespace(stats={"skipped": reports})
    pytest_terminal_summary(reporter, pytestconfig)
    # pytest shows one line for those that are equal.
    assert reports[0].longrepr == reports[1].longrepr
    assert "set QKV_DATA to their folder" in reports[0].longrepr[2]
    assert reports[2].longrepr == ("2.py", 2, "GPU")
