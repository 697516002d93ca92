"""What a net is (records), how to look around in it (walk), how to change it (edit, naming), what it costs (macs)."""

from onnxzip.net.edit import pruned, renamed_inputs
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
    bind_batch,
    common_name,
    per_sample,
)
from onnxzip.net.walk import consumers, follow_each_other, producers, reachable, topological

__all__ = [
    "BATCH", "Axis", "Measure", "Names", "Net", "Node", "Port", "Shape", "Sizes", "Subgraph", "bind_batch", "common_name",
    "consumers", "follow_each_other", "macs", "macs_of", "output_name", "per_sample", "producers", "pruned", "reachable",
    "renamed_inputs",
    "topological",
]
