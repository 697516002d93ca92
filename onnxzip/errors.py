"""Every error that onnxzip raises on purpose, and the exit code that the command line gives it.

    OnnxzipError
    |-- UsageError           2   a flag, an option or a path cannot be used as it was given
    |-- UnsupportedError     3   a net that is valid, or may be, but cannot be merged here
    |   |-- InvalidModelError    a file that is not a valid ONNX net
    |   `-- InvalidDataError     data that the nets cannot be fed with
    |-- VerificationError    1   the result does not do what it must; nothing was written
    |-- BackendMissingError  4   an optional or conflicting package stands in the way
    `-- PeerError            5   another process of the same job has ended, or cannot be reached
        `-- RelayedError     its own   another process reports the error that ends all of them

A message says what is wrong, where, and what to do, in the user's own words: file, node, shape.
"""

from __future__ import annotations


class OnnxzipError(Exception):
    """Root of the tree; `exit_code` is what the command line exits with."""

    exit_code = 3


class UsageError(OnnxzipError):
    """A flag, an option or a path cannot be used as it was given."""

    exit_code = 2


class UnsupportedError(OnnxzipError):
    """A net that onnxzip cannot merge."""

    exit_code = 3


class InvalidModelError(UnsupportedError):
    """A file that is not a valid ONNX net."""


class InvalidDataError(UnsupportedError):
    """Calibration or verification data that does not fit the nets."""


class VerificationError(OnnxzipError):
    """The fused net failed its check against the original nets."""

    exit_code = 1


class BackendMissingError(OnnxzipError):
    """A package that this step needs is missing, or two installed ones shut each other out."""

    exit_code = 4


class PeerError(OnnxzipError):
    """Another process of the same job has ended, or cannot be reached."""

    exit_code = 5


class RelayedError(PeerError):
    """An error of another process of the same job, which that process reports; all end with its exit code."""

    def __init__(self, place: int, message: str, exit_code: int) -> None:
        super().__init__(f"process {place}: {message}")
        self.exit_code = exit_code
