"""All that is public, under the names that `onnxzip` gives it."""

from onnxzip.before_after import plan, verify
from onnxzip.config import RetrainOptions
from onnxzip.errors import (
    BackendMissingError,
    InvalidDataError,
    InvalidModelError,
    OnnxzipError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from onnxzip.exporting.metadata import own_version
from onnxzip.merged import Merged
from onnxzip.pipeline import merge
from onnxzip.progress import Progress
from onnxzip.retraining.round_trip import from_torch, to_torch
from onnxzip.shipping.shipment import export
from onnxzip.taking_apart import bundle, split
from onnxzip.teaching import retrain

__version__ = own_version()

__all__ = [
    "BackendMissingError",
    "InvalidDataError",
    "InvalidModelError",
    "Merged",
    "OnnxzipError",
    "Progress",
    "RetrainOptions",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
    "__version__",
    "bundle",
    "export",
    "from_torch",
    "merge",
    "plan",
    "retrain",
    "split",
    "to_torch",
    "verify",
]
