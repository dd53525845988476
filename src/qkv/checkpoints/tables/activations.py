"""Activations as config.json names them: the one table that every family reads."""

# The first name of each is the one that is written. "gelu_fast" has ten digits of sqrt(2 / pi):
# that changes the function by 4e-12, and not at all in float32.
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
# Of a feed-forward network where the activation gates a second product (Llama, T5 1.1).
GATED = {name: _GATES[kind] for name, kind in ACTIVATIONS.items() if kind in _GATES}
