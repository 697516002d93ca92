"""Run a net by the torch functions of its operators: the interpreter that retraining differentiates through.

A net becomes a program once: every value has a slot, every node is a function with its attributes bound. Running it is a walk
over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from onnxzip.errors import UnsupportedError
from onnxzip.net import BATCH, Net, Node, Shape, bind_batch, pruned
from onnxzip.ops.reading import ints
from onnxzip.ops.registry import find

_GROWING = {"Expand": "shape", "Tile": "repeats"}
Watch = Callable[[Node, list[Any], list[Any]], None]
_NONE = 0  # the slot of an omitted input


@dataclass(frozen=True)
class Step:
    """One node: the slots it reads and writes, and those that nothing behind it reads."""

    node: Node
    function: Callable[..., Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    done: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What computes some values of a net.

    Attributes:
        net: its name, for messages.
        given: slot of every graph input and param that is read.
        steps: in the net's order.
        results: slot of every value asked for.
        size: number of slots.
    """

    net: str
    given: Mapping[str, int]
    steps: tuple[Step, ...]
    results: Mapping[str, int]
    size: int

    def run(self, given: Mapping[str, Any], watch: Watch | None = None) -> dict[str, Any]:
        """The values asked for, by name; `given` has a tensor for each name in `self.given`.

        Args:
            watch: is shown each node with what it has read and written.

        Raises:
            UnsupportedError: a torch function gives fewer outputs than the net reads.
        """
        slots: list[Any] = [None] * self.size
        for name, slot in self.given.items():
            slots[slot] = given[name]
        for step in self.steps:
            result = step.function(*[slots[k] for k in step.inputs])
            if isinstance(result, (tuple, list)):
                self._check(step, len(result))
                for slot, value in zip(step.outputs, result, strict=False):
                    slots[slot] = value
            else:
                self._check(step, 1)
                slots[step.outputs[0]] = result
            if watch is not None:
                watch(step.node, [slots[k] for k in step.inputs], [slots[k] for k in step.outputs])
            for slot in step.done:
                slots[slot] = None
        return {name: slots[slot] for name, slot in self.results.items()}

    def _check(self, step: Step, count: int) -> None:
        if count < len(step.outputs):
            asked = f"{len(step.outputs)} outputs of it are asked for, {count} can be run in torch"
            raise UnsupportedError(f"net {self.net!r}, node {step.node.name!r} ({step.node.op}): {asked}")


def program_of(net: Net, outputs: Iterable[str] | None = None) -> Program:
    """The program of a net.

    Args:
        net: in canonical form.
        outputs: of the graph, those to compute; None for all.

    Raises:
        UnsupportedError: some operators have no record, or cannot be run so; all of them are named.
    """
    wanted = net if outputs is None else pruned(net, outputs)
    check_runnable(wanted)
    read = {v for node in wanted.nodes for v in node.read} | {p.name for p in wanted.outputs}
    batched = _batch_source(net)
    if any(_grows(node) for node in wanted.nodes):
        read.add(batched[0])
    sources = [name for name in (*(p.name for p in net.inputs), *net.params) if name in read]
    values = dict.fromkeys([*sources, *(v for node in wanted.nodes for v in node.outputs)])
    slots = {name: k for k, name in enumerate(values, start=1)}
    results = {port.name: slots[port.name] for port in wanted.outputs}
    last = {v: node.name for node in wanted.nodes for v in (*_reads(node, batched), *node.outputs)}
    kept = {*results, *sources}
    steps = [
        _step(node, slots, batched, [v for v in _touched(node, batched) if last[v] == node.name and v not in kept])
        for node in wanted.nodes
    ]
    return Program(net.name, {name: slots[name] for name in sources}, tuple(steps), results, len(slots) + 1)


def check_runnable(net: Net) -> None:
    """Every node must be known to run before any is run.

    Raises:
        UnsupportedError: it names each node that is not.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for node in net.nodes:
        if (why := _obstacle(node)) is not None:
            found.setdefault((node.op, why), []).append(repr(node.name))
    if found:
        listed = "; ".join(f"{op} {why} (node {', '.join(names)})" for (op, why), names in found.items())
        raise UnsupportedError(f"net {net.name!r} cannot be run in torch: {listed}")


def _obstacle(node: Node) -> str | None:
    """Why a node cannot be run."""
    operator = find(node.op)
    if operator is None:
        return "is not registered"
    if node.attrs.get("training_mode") and node.attrs.get("ratio") != 0:
        return "is in training mode"
    computed = [name for k, name in operator.constants.items() if node.input(k) is not None]
    return f"has a computed {computed[0]}, which must be constant" if computed else None


def _batch_source(net: Net) -> tuple[str, int]:
    """The input, and its axis, that tells the batch; of a net of fixed size any will do."""
    return next(((p.name, p.shape.index(BATCH)) for p in net.inputs if BATCH in p.shape), ("", 0))


def _grows(node: Node) -> bool:
    """Whether a node repeats its input for every sample of the batch."""
    return node.op in _GROWING and any(d < 0 for d in ints(node.attrs[_GROWING[node.op]]))


def _reads(node: Node, batched: tuple[str, int]) -> tuple[str, ...]:
    return (*node.read, batched[0]) if _grows(node) else node.read


def _touched(node: Node, batched: tuple[str, int]) -> dict[str, None]:
    return dict.fromkeys((*_reads(node, batched), *node.outputs))


def _step(node: Node, slots: Mapping[str, int], batched: tuple[str, int], done: Iterable[str]) -> Step:
    operator = find(node.op)
    assert operator is not None
    inputs = tuple(_NONE if v is None else slots[v] for v in node.inputs)
    keywords = {**node.attrs, "outputs": len(node.outputs)} if operator.told_outputs else dict(node.attrs)
    function = partial(operator.torch, **keywords) if keywords else operator.torch
    if _grows(node):
        inputs = (*inputs, slots[batched[0]])
        function = partial(_grown, operator.torch, _GROWING[node.op], ints(node.attrs[_GROWING[node.op]]), batched[1])
    return Step(node, function, inputs, tuple(slots[v] for v in node.outputs), tuple(slots[v] for v in done))


def _grown(function: Callable[..., Any], keyword: str, numbers: Shape, axis: int, x: Any, source: Any) -> Any:
    """The function told numbers in which -k is k times the batch that `source` has along an axis."""
    return function(x, **{keyword: bind_batch(numbers, source.shape[axis])})
