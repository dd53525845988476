"""The names of activations in config.json, for all families."""

# The first name of each is used for writing. "gelu_fast" rounds sqrt(2 / pi) to ten digits, which
# changes the function by 4e-12, and not at all in float32.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_GATES = {"gelu": "geglu", "gelu_tanh": "geglu_tanh", "silu": "swiglu"}
# For gated feed-forward networks (Llama, T5 1.1).
GATED = {name: _GATES[kind] for name, kind in ACTIVATIONS.items() if kind in _GATES}
