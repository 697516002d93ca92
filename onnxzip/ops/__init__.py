"""All that is known of operators: one record each, one family a file, found by discovery."""

from onnxzip.ops.listed import listed, why_unknown
from onnxzip.ops.records import Line, Linear, Operator, Symmetry, View
from onnxzip.ops.registry import discover, find, register, registered

discover()

__all__ = ["Line", "Linear", "Operator", "Symmetry", "View", "find", "listed", "register", "registered", "why_unknown"]
