"""onnxzip merges several trained ONNX nets into one ordinary ONNX net: a shared trunk, and a head per task.

loading      files become nets in canonical form
analysis     nets are laid over each other: what corresponds, what can be shared, what is refused
calibration  samples go once through the original nets and once through the fused one
matching     channels of different nets that do the same work are brought together
fusion       shared weights are fitted to what the original nets compute; everything behind is refitted
exporting    the result is run against the originals, described and written
retraining   a net is a torch module, and its params go back into its file
shipping     the file is converted for other runtimes, run there and compared

merged = onnxzip.merge({"tops": "a.onnx", "shoes": "b.onnx"}, {"tops": "a.npz", "shoes": "b.npz"})
merged.save("both.onnx")
"""

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
