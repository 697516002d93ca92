"""Tails of the nets that were merged, behind the fused net: each reads what its task has become, and is as it was.

    value v of task t's tail -> t.v        what it reads -> what the fused net calls that        output o -> t_o
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count

from onnx import GraphProto, ModelProto

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import unique
from onnxzip.errors import UnsupportedError
from onnxzip.net import Net, Tail, output_name
from onnxzip.runtime import BATCH_NAME, needed_nodes, read_by, renamed_graph


def with_tails(plan: Plan, fused: Net, named: Callable[[str, str], str] = output_name) -> Net:
    """The fused net with the tails of its tasks, as it came where there are none.

    Args:
        named: (task, output of its net) -> what the fused net calls it.

    Raises:
        UnsupportedError: the tails are written in different versions of a domain.
    """
    if all(net.tail is None for net in plan.nets.values()):
        return fused
    _refuse_versions(plan)
    calls = iter(p.name for p in fused.outputs)
    whole, reads = GraphProto(), dict[str, tuple[str, ...]]()
    taken = set(fused.shapes) | {n.name for n in fused.nodes}
    for task, net in plan.nets.items():
        around = plan.overlay.fed(task)
        around |= {p.name: next(calls) for p in net.outputs}
        ends = {e: unique(named(task, e), "out", taken) if e in net.made else around[e] for e in net.ends}
        reads |= {ends[e]: tuple(around[v] for v in net.roots([e])) for e in ends}
        if net.tail is not None:
            prefix = next(p for k in count(1) if not any(f"{v}.".startswith(p := task + k * ".") for v in taken))
            graph = renamed_graph(GraphProto.FromString(net.tail.content), prefix, around, {e: ends[e] for e in net.made})
            _call_batch(graph, net.batch, fused.batch)
            for part in ("node", "initializer", "output"):
                getattr(whole, part).extend(getattr(graph, part))
    return replace(fused, tail=Tail(whole.SerializeToString(deterministic=True), reads))


def attach(model: ModelProto, net: Net) -> None:
    """Put a net's tail behind the model of the rest of it, in place."""
    if net.tail is None:
        return
    graph, tail = model.graph, GraphProto.FromString(net.tail.content)
    ports = {p.name: p for p in (*graph.output, *tail.output)}
    inner = [p for p in graph.output if p.name not in net.tail.reads]
    graph.value_info.extend(inner)
    graph.ClearField("output")
    graph.output.extend(ports[name] for name in net.ends)
    graph.node.extend(tail.node)
    graph.initializer.extend(tail.initializer)


def tail_needs(net: Net, ends: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of the nodes and of the constants in a net's tail that some outputs need."""
    graph = GraphProto() if net.tail is None else GraphProto.FromString(net.tail.content)
    nodes = needed_nodes(graph, ends)
    read = {v for node in nodes for v in read_by(node)}
    return [n.name for n in nodes], [t.name for t in graph.initializer if t.name in read]


def _refuse_versions(plan: Plan) -> None:
    versions: dict[str, tuple[str, int]] = {}
    for task, net in plan.nets.items():
        for domain, version in net.opsets.items():
            other, known = versions.setdefault(domain, (task, version))
            if known != version:
                raise UnsupportedError(
                    f"{other!r} has operators of {domain} {known}, {task!r} of {domain} {version}, and a net can have one "
                    "version of them only. Export both with the same."
                )


def _call_batch(graph: GraphProto, name: str, new: str) -> None:
    """Give the batch the name that the fused net has for it; other sizes without a number have none."""
    for port in graph.output:
        for dim in port.type.tensor_type.shape.dim:
            if dim.dim_param:
                same = dim.dim_param == name
                dim.Clear()
                if same:
                    dim.dim_param = new or BATCH_NAME
