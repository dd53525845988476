import pytest
import torch
from tests.helpers import unchecked


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of a few numbers: two threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def unchecked_types():
    """Run without the checks of jaxtyping, as users do: our own errors come to the light."""
    with unchecked():
        yield
