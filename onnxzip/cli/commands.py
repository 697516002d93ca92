"""All commands, in the order of `--help`: importing the module of a command registers it."""

from onnxzip.cli import asking, looking, making, parting, shipping
from onnxzip.cli.frame import app

__all__ = ["app", "asking", "looking", "making", "parting", "shipping"]
