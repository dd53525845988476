import pytest
from tests.checking import unchecked


@pytest.fixture
def unchecked_types():
    """Run without the checks of jaxtyping, as users do: our own errors come to the light."""
    with unchecked():
        yield
