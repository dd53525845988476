import os

import pytest


@pytest.fixture
def shared_data():
    """The folder of named data sets; without it the test is skipped."""
    folder = os.environ.get("QKV_DATA")
    if not folder:
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    return folder
