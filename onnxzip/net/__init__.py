"""What a net is (records), how to look around in it (walk, classes), how to change it (edit, naming), what it costs (macs)."""

from onnxzip.net.classes import Classes, classes_of, picked_from, rows_per_sample, within_one
from onnxzip.net.edit import pruned, renamed, renamed_inputs
from onnxzip.net.macs import macs, macs_of
from onnxzip.net.naming import Names, output_name
from onnxzip.net.records import (
    BATCH,
    Axis,
    Measure,
    Net,
    Node,
    Port,
    Shape,
    Sizes,
    Subgraph,
    Tail,
    bind_batch,
    common_name,
    per_sample,
)
from onnxzip.net.walk import consumers, follow_each_other, producers, reachable, topological

__all__ = [
    "BATCH", "Axis", "Classes", "Measure", "Names", "Net", "Node", "Port", "Shape", "Sizes", "Subgraph", "Tail", "bind_batch",
    "classes_of", "common_name", "consumers", "follow_each_other", "macs", "macs_of", "output_name", "per_sample",
    "picked_from", "producers", "pruned", "reachable", "renamed", "renamed_inputs", "rows_per_sample", "topological",
    "within_one",
]
