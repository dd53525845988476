"""Checks of types and shapes at run time. Imports no part of qkv, so that all of it is checked."""

from contextlib import contextmanager

import jaxtyping


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
