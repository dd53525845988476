"""Errors of qkv. A message states the actual and the expected value and the likely cause."""


class QKVError(Exception):
    """Base class of all errors of this library."""


class ConfigError(QKVError, ValueError):
    """An invalid, contradictory or unknown option."""


class ShapeError(QKVError, ValueError):
    """A tensor or mask with a wrong shape or dtype."""


class VocabularyError(QKVError, ValueError):
    """A token or token id outside the vocabulary."""


class LengthError(QKVError, ValueError):
    """A sequence longer than the model, the cache or the position table supports."""


class DataError(QKVError, ValueError):
    """Data that is unreadable, empty or inconsistent."""


class StorageError(QKVError, OSError):
    """A file or folder that cannot be written, such as on a full disk."""


class TrainingError(QKVError, RuntimeError):
    """Training that cannot continue, such as after a NaN loss."""


class BusyError(QKVError, RuntimeError):
    """Too many requests are waiting already."""


class MissingDependencyError(QKVError, ImportError):
    """A missing optional package; the message has the command that installs it."""


class Interrupted(QKVError):  # noqa: N818 - nothing went wrong
    """Training that was interrupted by a signal and has saved its state.

    Args:
        message: what was saved, and its path.
        signal: number of the signal.
    """

    def __init__(self, message: str, *, signal: int):
        super().__init__(message)
        self.signal = signal
