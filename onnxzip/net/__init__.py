"""What a net is (records), how to look around in it (walk, classes), how to change it (edit, in_file, naming), what it costs
(macs)."""

from onnxzip.net.classes import Classes, classes_of, picked_from, rows_per_sample, within_one
from onnxzip.net.edit import pruned, renamed, renamed_inputs, with_more_params, with_values
from onnxzip.net.in_file import in_file
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
    State,
    Subgraph,
    Tail,
    bind_batch,
    common_name,
    order_in_file,
    order_in_front,
    per_sample,
    place_in_file,
)
from onnxzip.net.walk import consumers, follow_each_other, producers, reachable, topological

__all__ = [
    "BATCH", "Axis", "Classes", "Measure", "Names", "Net", "Node", "Port", "Shape", "Sizes", "State", "Subgraph", "Tail",
    "bind_batch", "classes_of", "common_name", "consumers", "follow_each_other", "in_file", "macs", "macs_of", "order_in_file",
    "order_in_front", "output_name", "per_sample", "picked_from", "place_in_file", "producers", "pruned", "reachable",
    "renamed", "renamed_inputs", "rows_per_sample", "topological", "with_more_params", "with_values", "within_one",
]
