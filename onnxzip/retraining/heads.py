"""What each output of a net says, read from its graph: how far a student is from its teacher depends on it.

    probabilities   the last operator is a Softmax
    logits          the last operator is a LogSoftmax, or the output tells classes (`net.classes`) and nothing bounds it
    values          every other output of floating-point numbers

An output that is no float (an ArgMax, say), or whose first axis is not the batch or so many rows a sample, teaches nothing
and is left out; what it picks from is made an output before, where a task has no others (`exporting.shown`). What the graph
does not tell the user can say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.exporting.origin import Origin
from onnxzip.net import Net, Port, classes_of, producers, rows_per_sample
from onnxzip.net.classes import BOUNDED, LOGITS, PROBABILITIES, VALUES

KINDS = (LOGITS, PROBABILITIES, VALUES)


@dataclass(frozen=True)
class Head:
    """One output of one task.

    Attributes:
        task: whose it is.
        name: the original net's output.
        output: the fused net's.
        kind: logits, probabilities or values.
        axis: along which classes lie.
        rows: of the first axis that a sample has.
        labelled: whether labels are compared with it.
    """

    task: str
    name: str
    output: str
    kind: str
    axis: int
    rows: int = 1
    labelled: bool = False


def heads_of(
    net: Net, origins: Mapping[str, Origin], given: Mapping[str, str], note: Callable[[str], None] = lambda text: None
) -> tuple[Head, ...]:
    """All heads that teach, in the order of the tasks.

    Args:
        net: the fused one.
        origins: of its tasks.
        given: kinds that the user has set, by output of the fused net.
        note: is told of floats that do not teach.

    Raises:
        UsageError: no such output or kind.
        UnsupportedError: a task has no output that teaches.
    """
    ports = {p.name: p for p in net.outputs}
    batch = net.inputs[0].shape[0]
    check_kinds(ports, given)
    check_teaching({task: [ports[o] for o in origin.compared.values()] for task, origin in origins.items()}, batch)
    last = producers(net.nodes)
    found = []
    for task, origin in origins.items():
        own, kinds = {name: ports[output] for name, output in origin.compared.items()}, origin.kinds(given)
        classes = classes_of(own, net.nodes, batch, kinds)
        for name, port in own.items():
            if not teaches(port, batch):
                if _is_float(port):
                    note(f"output {port.name!r} does not teach: its first axis is not the batch")
                continue
            node = last.get(port.name)
            op, attrs = (node.op, node.attrs) if node is not None else ("", {})
            kind = kinds.get(port.name) or _kind(op, name in classes.scores)
            axis = int(attrs.get("axis", -1)) if op in ("Softmax", "LogSoftmax") else min(1, len(port.shape) - 1)
            labelled = name == classes.labelled and kind != VALUES
            found.append(Head(task, name, port.name, kind, axis, rows_per_sample(port.shape, batch), labelled))
    return tuple(found)


def check_kinds(outputs: Collection[str], given: Mapping[str, str]) -> None:
    """Refuse kinds of outputs that do not exist.

    Args:
        outputs: of the fused net.
        given: kinds that the user has set, by output.

    Raises:
        UsageError: naming the output.
    """
    for output, kind in given.items():
        if output not in outputs:
            raise UsageError(f"--head {output}={kind}: there is no such output (outputs: {', '.join(outputs)})")


def check_teaching(outputs: Mapping[str, Sequence[Port]], batch: int) -> None:
    """Refuse tasks that nothing can teach.

    Args:
        outputs: of each task.
        batch: first axis of the inputs.

    Raises:
        UnsupportedError: none of a task's outputs teaches.
    """
    for task, own in outputs.items():
        if not any(teaches(port, batch) for port in own):
            listed = ", ".join(f"{p.name!r} {p.dtype} {list(p.shape)}" for p in own) or "all come from an end that is kept"
            raise UnsupportedError(
                f"task {task!r}: none of its outputs are floating-point numbers with the batch in front ({listed}, -1 being "
                "the batch): nothing can teach. Merge it without retraining."
            )


def teaches(port: Port, batch: int) -> bool:
    """Whether an output is of floats, with the batch or so many rows a sample in front."""
    return _is_float(port) and rows_per_sample(port.shape, batch) > 0


def _is_float(port: Port) -> bool:
    """NumPy does not know bfloat16 as a type of floats."""
    return port.dtype.kind == "f" or port.dtype.name == "bfloat16"


def _kind(op: str, scores: bool) -> str:
    if op == "Softmax":
        return PROBABILITIES
    return LOGITS if op == "LogSoftmax" or (scores and op not in BOUNDED) else VALUES


def kinds_from(texts: Iterable[str]) -> dict[str, str]:
    """Kinds by output from texts as OUTPUT=KIND.

    Raises:
        UsageError: no such kind.
    """
    found = {}
    for text in texts:
        output, _, kind = text.rpartition("=")
        if not output or kind not in KINDS:
            raise UsageError(f"--head {text}: write OUTPUT=KIND, KIND being {', '.join(KINDS)}")
        found[output] = kind
    return found
