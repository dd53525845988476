"""Errors of qkv: a message says what was given, what was expected and the likely cause."""


class QKVError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(QKVError, ValueError):
    """A configuration that contradicts itself or asks for something unknown."""


class ShapeError(QKVError, ValueError):
    """A tensor, a mask included, whose shape or dtype does not fit where it was given."""


class VocabularyError(QKVError, ValueError):
    """A token, or a token id, that the vocabulary does not have."""


class LengthError(QKVError, ValueError):
    """A sequence longer than the model, the cache or the table of positions can take."""


class DataError(QKVError, ValueError):
    """Data that cannot be read, is empty, or whose parts do not belong together."""


class StorageError(QKVError, OSError):
    """A file or folder that cannot be written: a full or read-only disk, or another writer."""


class TrainingError(QKVError, RuntimeError):
    """Training that cannot go on, such as a loss that is no longer a number."""


class MissingDependencyError(QKVError, ImportError):
    """An optional package is needed and not installed; the message says how to install it."""


class Interrupted(QKVError):  # noqa: N818 - nothing went wrong
    """Training that was asked to stop, and has saved its state.

    Args:
        message: what was saved where.
        signal: number of the signal that asked.
    """

    def __init__(self, message: str, *, signal: int):
        super().__init__(message)
        self.signal = signal
