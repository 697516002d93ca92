"""Which outputs of a task tell classes, and which of them labels are compared with: for check, verification and training.

    scores    floats [batch, classes], but for the values of a TopK, embeddings (rows that are divided by their length), and
              features that another such output or an ArgMax is computed from: logits that only become probabilities, or of
              which the largest is picked, are scores
    numbers   integers [batch], or of an ArgMax or TopK with the batch in front: places, whose distance says nothing
    labelled  of the scores those that end in a Softmax, then those that an ArgMax or TopK reads, then those that nothing
              bounds, then those that are called so, and of several that are left the last; without scores the last number

What the user says of an output comes before all of this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxzip.net.records import Node, Port, Shape
from onnxzip.net.walk import producers

LOGITS, PROBABILITIES, VALUES = "logits", "probabilities", "values"
SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
BOUNDED = frozenset({"Sigmoid", "HardSigmoid", "Tanh", "Clip", "Softmax", "Relu", "Softsign"})
WITHIN_ONE = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh", "Softsign"})
_PICKING = frozenset({"ArgMax", "TopK"})
_GUARDING = frozenset({"Clip", "Max", "Add", "Expand"})
_SAME = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_POINTWISE = frozenset({"Neg", "Mul", "Div", "Add", "Sub", "LeakyRelu", "LpNormalization", "LayerNormalization"})
_CALLED = "logit", "prob", "score"


@dataclass(frozen=True)
class Classes:
    """What the outputs of a task say of classes.

    All outputs by their original names.

    Attributes:
        scores: outputs of floats [batch, classes].
        numbers: outputs of integers that are classes.
        labelled: the output that labels are compared with; None where there is none.
        count: how many classes that one has; 0 where it gives numbers and nobody says.
        doubtful: outputs that could have been meant as well, `labelled` being the last; empty where it is the only one.
        loose: outputs that a tail computes: samples may have them in different sizes, and they need be no numbers.
        bounded: outputs that lie between -1 and 1 by the operator that makes them.
    """

    scores: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    labelled: str | None = None
    count: int = 0
    doubtful: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    bounded: tuple[str, ...] = ()


def rows_per_sample(shape: Shape, batch: int) -> int:
    """Rows along the first axis of an output that belong to a sample; 0 where the batch is elsewhere, mixed, or nowhere.

    Args:
        batch: first axis of the net's inputs: -1, or the number of samples that it takes.
    """
    if not shape:
        return 0
    if batch > 0:
        return 0 if shape[0] % batch else shape[0] // batch
    return -shape[0] if shape[0] < 0 and min(shape[1:], default=0) >= 0 else 0


def within_one(nodes: Iterable[Node], outputs: Iterable[str]) -> list[str]:
    """Those of some outputs that lie between -1 and 1 by the operator that makes them."""
    graph = _Graph(nodes)
    return [name for name in outputs if graph.maker(name, _SAME) in WITHIN_ONE]


def picked_from(nodes: Iterable[Node], output: str) -> str | None:
    """What an ArgMax or TopK picks an output from; None where none does."""
    node = _Graph(nodes).made(output, _SAME)
    return node.inputs[0] if node is not None and node.op in _PICKING else None


def classes_of(
    outputs: Mapping[str, Port], nodes: Iterable[Node], batch: int, given: Mapping[str, str]
) -> Classes:
    """What the outputs of one task say of classes.

    Args:
        outputs: of the task by their original names, in the graph's order.
        nodes: of the graph that computes them.
        batch: first axis of the net's inputs.
        given: what the user says of outputs of the graph: logits, probabilities or values.
    """
    nodes = tuple(nodes)
    graph, called = _Graph(nodes), {p.name: name for name, p in outputs.items()}
    mine = [p for p in outputs.values() if rows_per_sample(p.shape, batch) == 1 and given.get(p.name) != VALUES]
    told = {p.name for p in mine if p.name in given}
    numbers = [p for p in mine if p.dtype.kind in "iu" and (len(p.shape) == 1 or graph.maker(p.name, _SAME) in _PICKING)]
    wide = [
        p for p in mine if p.dtype.kind == "f" and len(p.shape) == 2 and p.shape[1] >= 2
        and (p.name in told or (graph.maker(p.name, _SAME) != "TopK" and not graph.is_unit(p.name)))
    ]
    chosen = [p.name for p in numbers if graph.maker(p.name, _SAME) in _PICKING]
    feeding = graph.feeding([p.name for p in wide], [*(p.name for p in wide), *chosen])
    scores = [p for p in wide if p.name in told or p.name not in feeding]
    single = [p.name for p in numbers if p.shape[1:] in ((), (1,))]
    left = _labelled([p.name for p in scores], told, called, graph) or single
    return Classes(
        tuple(called[p.name] for p in scores),
        tuple(called[p.name] for p in numbers),
        called[left[-1]] if left else None,
        next((p.shape[1] for p in scores if p.name == left[-1]), 0) if left else 0,
        tuple(called[n] for n in left) if len(left) > 1 else (),
        bounded=tuple(called[n] for n in within_one(nodes, called)),
    )


def _labelled(scores: Sequence[str], told: Collection[str], called: Mapping[str, str], graph: _Graph) -> list[str]:
    """Those of the scores that labels may be meant for: each preference that some of them meet leaves these."""
    left = [s for s in scores if s in told] or list(scores)
    picked = graph.picked(left)
    for preferred in (
        {s for s in left if graph.maker(s, _SAME) in SOFTMAX},
        picked,
        {s for s in left if graph.maker(s, _SAME) not in BOUNDED},
        {s for s in left if any(word in called[s].lower() for word in _CALLED)},
    ):
        left = [s for s in left if s in preferred] or left
    return left


class _Graph:
    """Who makes what."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = tuple(nodes)
        self.makers = producers(self.nodes)

    def maker(self, value: str, through: Collection[str]) -> str:
        """The operator that makes a value, seen through some others; empty for inputs and params."""
        node = self.made(value, through)
        return "" if node is None else node.op

    def made(self, value: str | None, through: Collection[str]) -> Node | None:
        """The node that makes a value, seen through some operators; None for inputs and params."""
        node = self.makers.get(value) if value is not None else None
        while node is not None and node.op in through and node.inputs[0] is not None:
            node = self.makers.get(node.inputs[0])
        return node

    def is_unit(self, value: str) -> bool:
        """Whether rows are divided by their lengths, and nothing follows: what embeddings are."""
        node = self.made(value, _SAME)
        if node is None or node.op == "LpNormalization":
            return node is not None
        if node.op == "Div":
            return self._is_length(node.inputs[1])
        factors = (self.made(v, _SAME | _GUARDING) for v in node.inputs if node.op == "Mul")
        return any(f is not None and f.op == "Reciprocal" and self._is_length(f.inputs[0]) for f in factors)

    def _is_length(self, value: str | None) -> bool:
        """Whether a value is a Euclidean norm, kept from 0."""
        node = self.made(value, _SAME | _GUARDING)
        if node is not None and node.op == "Sqrt":
            node = self.made(node.inputs[0], _SAME | _GUARDING)
            return node is not None and node.op in ("ReduceSum", "ReduceSumSquare")
        return node is not None and node.op == "ReduceL2"

    def picked(self, values: Collection[str]) -> set[str]:
        """Those of some values of which an ArgMax or TopK takes the largest."""
        found = (self._behind(n.inputs[0], values) for n in self.nodes if n.op in _PICKING)
        return {value for value in found if value is not None}

    def _behind(self, value: str | None, values: Collection[str]) -> str | None:
        """The first of some values that a value is made of, keeping its order."""
        while value is not None and value not in values:
            node = self.makers.get(value)
            value = node.inputs[0] if node is not None and node.op in _SAME | SOFTMAX else None
        return value

    def feeding(self, values: Collection[str], targets: Iterable[str]) -> set[str]:
        """Those of some values whose base another target is computed from, unless an ArgMax or TopK picks from them."""
        bases, kept, found = {v: self._base(v) for v in values}, self.picked(values), set[str]()
        for target in targets:
            before, own = self._before(target), self._base(target)
            found |= {v for v, base in bases.items() if base in before and base != own}
        return found - kept

    def _base(self, value: str) -> str:
        """What a value is made of entry by entry: logits of probabilities, the features that are scaled to an embedding."""
        while (node := self.makers.get(value)) is not None and node.op in _SAME | SOFTMAX | BOUNDED | _POINTWISE:
            computed = [v for v in node.inputs if v in self.makers and self.makers[v].inputs]
            if not computed or (len(computed) > 1 and node.op != "Div"):
                break
            value = str(computed[0])
        return value

    def _before(self, value: str) -> set[str]:
        """All values that a value is computed from."""
        found: set[str] = set()
        waiting = [value]
        while waiting:
            node = self.makers.get(waiting.pop())
            new = set(node.read) - found if node is not None else set()
            found |= new
            waiting += new
        return found
