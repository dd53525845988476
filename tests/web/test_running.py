"""The socket of a server."""

import pytest

from qkv.errors import ConfigError
from qkv.web.running import listen


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_there_is_no_such_port(port):
    with pytest.raises(ConfigError, match=f"port = {port}; expected 0 to 65535"):
        listen("127.0.0.1", port)


def test_zero_takes_a_free_port():
    with listen("127.0.0.1", 0) as listening:
        assert listening.getsockname()[1] > 0
