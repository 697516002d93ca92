"""What each output of a net says, read from its graph: how far a student is from its teacher depends on it.

    probabilities   the last operator is a Softmax
    logits          the last operator is a LogSoftmax, or the output is [batch, classes] and nothing bounds it
    values          every other output of floating-point numbers

An output that is no float (an ArgMax, say) teaches nothing and is left out. What the graph does not tell the user can say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnxzip.errors import UnsupportedError, UsageError
from onnxzip.exporting.metadata import Origin
from onnxzip.net import Net, Port, producers

LOGITS, PROBABILITIES, VALUES = "logits", "probabilities", "values"
KINDS = (LOGITS, PROBABILITIES, VALUES)
_BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Tanh", "Clip", "Softmax", "Relu", "Softsign"})


@dataclass(frozen=True)
class Head:
    """One output of one task.

    Attributes:
        task: whose it is.
        name: the original net's output.
        output: the fused net's.
        kind: logits, probabilities or values.
        axis: along which classes lie.
    """

    task: str
    name: str
    output: str
    kind: str
    axis: int


def heads_of(net: Net, origins: Mapping[str, Origin], given: Mapping[str, str]) -> tuple[Head, ...]:
    """All heads that teach, in the order of the tasks.

    Args:
        net: the fused one.
        origins: of its tasks.
        given: kinds that the user has set, by output of the fused net.

    Raises:
        UsageError: no such output or kind.
        UnsupportedError: a task has no output of floats.
    """
    ports = {p.name: p for p in net.outputs}
    check_heads({task: [ports[o] for o in origin.outputs.values()] for task, origin in origins.items()}, given)
    last = producers(net.nodes)
    found = []
    for task, origin in origins.items():
        names = [(n, o) for n, o in origin.outputs.items() if _teaches(ports[o])]
        for name, output in names:
            node = last.get(output)
            op, attrs = (node.op, node.attrs) if node is not None else ("", {})
            kind = given.get(output) or _kind(ports[output], op)
            axis = int(attrs.get("axis", -1)) if op in ("Softmax", "LogSoftmax") else min(1, len(ports[output].shape) - 1)
            found.append(Head(task, name, output, kind, axis))
    return tuple(found)


def check_heads(outputs: Mapping[str, Iterable[Port]], given: Mapping[str, str]) -> None:
    """Refuse kinds of outputs that do not exist, and tasks that nothing can teach.

    Args:
        outputs: of each task, under the fused net's names.
        given: kinds that the user has set, by output of the fused net.

    Raises:
        UsageError: no such output.
        UnsupportedError: a task has no output of floats.
    """
    ports = {task: list(own) for task, own in outputs.items()}
    names = [p.name for own in ports.values() for p in own]
    for output, kind in given.items():
        if output not in names:
            raise UsageError(f"--head {output}={kind}: there is no such output (outputs: {', '.join(names)})")
    for task, own in ports.items():
        if not any(map(_teaches, own)):
            raise UnsupportedError(f"task {task!r}: none of its outputs are floating-point numbers: nothing can teach")


def _teaches(port: Port) -> bool:
    """Whether an output is one of floats; NumPy does not know bfloat16 as one."""
    return port.dtype.kind == "f" or port.dtype.name == "bfloat16"


def _kind(port: Port, op: str) -> str:
    if op == "Softmax":
        return PROBABILITIES
    classes = len(port.shape) == 2 and port.shape[1] >= 2 and op not in _BOUNDED
    return LOGITS if op == "LogSoftmax" or classes else VALUES


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
