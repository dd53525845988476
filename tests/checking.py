"""Checks of types and shapes at run time. Imports no part of qkv, so that all of it is checked."""

import os
from contextlib import contextmanager

import jaxtyping

# All tests are at their full width: types are checked in all, models that share code are not left
# out, and random examples are new.
NIGHTLY = os.environ.get("QKV_NIGHTLY") == "1"


@contextmanager
def type_checks(on):
    """Run with or without the checks of types and shapes by jaxtyping."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", not on)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def unchecked():
    """Run without the checks, as users do: our own errors come to light."""
    return type_checks(False)
