"""Which node of one net plays the part of which node of another, found from the graphs alone.

The nets are laid over each other from their inputs on. A node joins a role of the others when operator, attributes, constant
operands and the roles of all its inputs agree, and when its channel spaces fit theirs one to one. Where several nodes qualify
(parallel branches) those whose futures agree longest are paired: neighbourhood labels refined towards the outputs, after
Weisfeiler and Leman (1968). What does not join starts a role of its own: the head of its task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxzip.analysis.coupling import Coupling
from onnxzip.analysis.likeness import fingerprint, free_inputs, futures_of, local_key, parting, resemblance
from onnxzip.analysis.roles import Atom, Overlay, Role, unique
from onnxzip.analysis.spaces import Expr
from onnxzip.errors import UnsupportedError
from onnxzip.linalg.assignment import hungarian
from onnxzip.loading.inputs import Laid, names_of
from onnxzip.loading.masks import plain_mask
from onnxzip.net import Axis, Node, consumers, topological
from onnxzip.ops import find


@dataclass
class _Draft:
    name: str
    op: str
    members: dict[str, Node]
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    order: dict[str, tuple[int, ...]]


@dataclass
class _Builder:
    couplings: Mapping[str, Coupling]
    drafts: list[_Draft] = field(default_factory=list)
    by_key: dict[Hashable, list[_Draft]] = field(default_factory=dict)
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    laid: dict[tuple[str, str], str] = field(default_factory=dict)
    spaces: dict[Atom, int] = field(default_factory=dict)
    members: dict[int, dict[str, int]] = field(default_factory=dict)
    partings: list[tuple[str, str]] = field(default_factory=list)
    futures: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    value_names: set[str] = field(default_factory=set)
    role_names: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)  # inputs that not all tasks have

    def lay(self, laid: str, task: str, value: str) -> None:
        self.values.setdefault(laid, {})[task] = value
        self.laid[task, value] = laid

    def own_space(self, task: str, atom: int) -> int:
        if (task, atom) not in self.spaces:
            self.spaces[task, atom] = number = len(self.members)
            self.members[number] = {task: atom}
        return self.spaces[task, atom]

    def is_fixed(self, task: str, atom: int) -> bool:
        return atom not in self.couplings[task].produced and atom not in self.couplings[task].inside

    def merge_spaces(self, pairs: list[tuple[Atom, Atom]]) -> str | None:
        """Make each pair of atoms one laid-over space; where that contradicts what is known, say why and change nothing."""
        trial: dict[int, dict[str, int]] = {}
        joined: dict[Atom, int] = {}
        for (first_task, first), (task, atom) in pairs:
            number = self.own_space(first_task, first)
            before = self.spaces.get((task, atom))
            known = trial.setdefault(number, dict(self.members[number]))
            coupled = known.get(task, atom) == atom and joined.get((task, atom), number) == number
            alone = before is None or before == number or len(self.members[before]) < 2
            if not (coupled and alone) and self.is_fixed(first_task, first) and self.is_fixed(task, atom):
                continue  # entries that stay where they are
            if not coupled:
                return "its channels are coupled in another way"
            if not alone:
                return "its channels correspond to others already"
            known[task] = atom
            joined[task, atom] = number
        for (task, atom), number in joined.items():
            before = self.spaces.get((task, atom))
            if before is not None and before != number:
                self.members[before] = {}
            self.spaces[task, atom] = number
            self.members[number][task] = atom
        return None


def overlay(couplings: Mapping[str, Coupling], inputs: Laid) -> Overlay:
    """Lay nets over each other.

    Args:
        inputs: task -> input of the fused net -> its own.

    Raises:
        UnsupportedError: inputs that are laid over each other differ.
    """
    names = set(names_of(inputs))
    builder = _Builder(couplings, value_names=names, own={n for n in names if any(n not in i for i in inputs.values())})
    for task in couplings:
        for name, own in inputs[task].items():
            _lay_input(builder, name, next(t for t in couplings if name in inputs[t]), task, own)
        builder.futures[task] = futures_of(couplings[task])
        _lay_nodes(builder, task)
    nodes = [Node(d.name, d.op, tuple(v for v in d.inputs if v is not None), d.outputs) for d in builder.drafts]
    computed = {o for d in builder.drafts for o in d.outputs}
    order = [n.name for n in topological(nodes, [v for v in builder.values if v not in computed])]
    by_name = {d.name: d for d in builder.drafts}
    roles = tuple(Role(d.name, d.op, d.members, d.inputs, d.outputs, d.order) for d in (by_name[n] for n in order))
    for task, coupling in couplings.items():
        for expr in coupling.axes.values():
            for atom in expr.atoms():
                builder.own_space(task, atom)
    return Overlay(couplings, roles, builder.values, builder.spaces, tuple(builder.partings), inputs)


def _lay_input(builder: _Builder, name: str, first: str, task: str, own: str) -> None:
    """Lay an input of a task over that of the first net that has it."""
    ours, theirs = builder.couplings[first], builder.couplings[task]
    port = next(p for p in ours.net.inputs if p.name == builder.values.get(name, {}).get(first, own))
    other = next(p for p in theirs.net.inputs if p.name == own)
    if other.shape != port.shape or other.dtype != port.dtype:
        raise UnsupportedError(
            f"input {port.name!r} of {first!r} is {port.dtype} {_shown(port.shape)}, input {other.name!r} of {task!r} is "
            f"{other.dtype} {_shown(other.shape)}: only nets that read the same input can be merged"
        )
    builder.lay(name, task, own)
    pairs = [
        ((first, a), (task, b))
        for d in range(len(port.shape))
        for a, b in zip(ours.axes[Axis(port.name, d)].atoms(), theirs.axes[Axis(own, d)].atoms(), strict=False)
    ]
    builder.merge_spaces(pairs)


def _shown(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(d) if d >= 0 else "N" if d == -1 else f"{-d}N" for d in shape) + "]"


def _lay_nodes(builder: _Builder, task: str) -> None:
    """Give every node of a net a role, nodes with equal claims together."""
    net = builder.couplings[task].net
    done: set[str] = set()
    readers = consumers(net.nodes)
    for node in net.nodes:
        if node.name in done:
            continue
        key, _ = _key(builder, task, node)
        first = next((v for v in node.read if v not in net.params), None)
        rivals = [node]
        for other in readers.get(first, []) if first is not None else []:
            waiting = other.name != node.name and other.name not in done and _ready(builder, task, other)
            if waiting and _key(builder, task, other)[0] == key:
                rivals.append(other)
        _assign(builder, task, rivals, [d for d in builder.by_key.get(key, []) if task not in d.members])
        done.update(r.name for r in rivals)


def _ready(builder: _Builder, task: str, node: Node) -> bool:
    params = builder.couplings[task].net.params
    return all(v is None or v in params or (task, v) in builder.laid for v in node.inputs)


def _assign(builder: _Builder, task: str, rivals: list[Node], drafts: list[_Draft]) -> None:
    """Pair rival nodes with the roles open to them, longest common future first."""
    left = list(rivals)
    if drafts:
        score = np.array([[_agreement(builder, task, n, d) for d in drafts] for n in rivals])
        for i, j in zip(*hungarian(-score), strict=True):
            why = _join(builder, task, rivals[i], drafts[j])
            if why is None:
                left.remove(rivals[i])
            else:
                builder.partings.append((f"{task}: {rivals[i].name}", why))
    for node in left:
        _found(builder, task, node)


def _agreement(builder: _Builder, task: str, node: Node, draft: _Draft) -> float:
    other_task, other = next(iter(draft.members.items()))
    a, b = builder.futures[task][node.name], builder.futures[other_task][other.name]
    rounds = next((k for k, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
    return rounds + resemblance(builder.couplings[task], node, builder.couplings[other_task], other)


def _join(builder: _Builder, task: str, node: Node, draft: _Draft) -> str | None:
    """Let a node play a role; the reason, where its channel spaces do not allow it."""
    order = _key(builder, task, node)[1]
    other_task, other = next(iter(draft.members.items()))
    ours, theirs = builder.couplings[task], builder.couplings[other_task]
    read = ((other.inputs[i], node.inputs[j]) for i, j in zip(draft.order[other_task], order, strict=True))
    values = (*read, *zip(other.outputs, node.outputs, strict=True))
    sides = [(theirs.exprs(a), ours.exprs(b)) for a, b in values if a is not None and b is not None]
    if any(len(first) != len(second) for first, second in sides):
        return f"it has another number of axes than in {other_task!r}"
    exprs = [pair for first, second in sides for pair in zip(first, second, strict=True)]
    names, other_names = ours.names.get(node.name, {}), theirs.names.get(other.name, {})
    if set(names) != set(other_names):
        return "its axes are coupled in another way"
    pairs: list[tuple[Atom, Atom]] = []
    for a, b in [*exprs, *((other_names[k], names[k]) for k in names)]:
        why = _relate(theirs, other_task, a, ours, task, b, pairs)
        if why is not None:
            return why
    why = builder.merge_spaces(pairs)
    if why is not None:
        return why
    draft.members[task], draft.order[task] = node, order
    for laid, value in zip([*draft.inputs, *draft.outputs], [*(node.inputs[k] for k in order), *node.outputs], strict=True):
        if laid is not None and value is not None and (laid in draft.outputs or value in ours.net.params):
            builder.lay(laid, task, value)
    return None


def _relate(
    first: Coupling, first_task: str, a: Expr, second: Coupling, task: str, b: Expr, pairs: list[tuple[Atom, Atom]]
) -> str | None:
    """Collect the atoms that must correspond for two expressions to; the reason, where they cannot."""
    if a.kind != b.kind or len(a.parts) != len(b.parts):
        return f"its axes have another structure than in {first_task!r}"
    for p, q in zip(a.parts, b.parts, strict=True):
        why = _relate(first, first_task, p, second, task, q, pairs)
        if why is not None:
            return why
    if a.kind == "atom":
        free = a.atom in first.produced
        if free != (b.atom in second.produced) or (not free and a.size != b.size):
            return f"an axis of {abs(b.size)} stands where {first_task!r} has {abs(a.size)}"
        pairs.append(((first_task, a.atom), (task, b.atom)))
    return None


def _found(builder: _Builder, task: str, node: Node) -> None:
    """Open a role for a node that joins none."""
    key, order = _key(builder, task, node)
    net = builder.couplings[task].net
    _report_parting(builder, task, node)
    inputs: list[str | None] = []
    for k in order:
        value = node.inputs[k]
        if value is not None and value in net.params:
            builder.lay(unique(value, task, builder.value_names), task, value)
        inputs.append(None if value is None else builder.laid[task, value])
    outputs = [unique(v, task, builder.value_names) for v in node.outputs]
    for laid, value in zip(outputs, node.outputs, strict=True):
        builder.lay(laid, task, value)
    name = unique(node.name, task, builder.role_names)
    draft = _Draft(name, node.op, {task: node}, tuple(inputs), tuple(outputs), {task: order})
    builder.drafts.append(draft)
    builder.by_key.setdefault(key, []).append(draft)


def _report_parting(builder: _Builder, task: str, node: Node) -> None:
    """A node that reads what others read, too, but does something else with it, is where its net parts from theirs."""
    net = builder.couplings[task].net
    reads = {builder.laid[task, v] for v in node.read if (task, v) in builder.laid and v not in net.params}
    shared = [v for v in reads if len(builder.values[v]) > 1]
    if not shared or task == next(iter(builder.couplings)):
        return
    rivals = [d for d in builder.drafts if task not in d.members and any(v in shared for v in d.inputs)]
    if own := reads & builder.own:
        builder.partings.append((f"{task}: {node.name}", f"it reads {min(own)!r}, which not all have; its head starts here"))
    elif rivals:
        other_task, other = next(iter(max(rivals, key=lambda draft: _agreement(builder, task, node, draft)).members.items()))
        alone = [v for v in node.read if v not in net.params and len(builder.values[builder.laid[task, v]]) == 1]
        why = parting(builder.couplings[task], node, other_task, builder.couplings[other_task].net, other, alone)
        builder.partings.append((f"{task}: {node.name}", f"{why}; its head starts here"))


def _key(builder: _Builder, task: str, node: Node) -> tuple[Hashable, tuple[int, ...]]:
    """What a node must share with a role to play it, and the order of its inputs in which it does."""
    coupling = builder.couplings[task]
    free = free_inputs(coupling, node)
    tokens = [_token(builder, task, v, k in free) for k, v in enumerate(node.inputs)]
    order = tuple(range(len(tokens)))
    operator = find(node.op)
    if operator is not None and operator.commutative:
        order = tuple(sorted(order, key=lambda k: repr(tokens[k])))
    return (local_key(coupling, node), tuple(tokens[k] for k in order)), order


def _token(builder: _Builder, task: str, value: str | None, free: bool) -> Hashable:
    coupling = builder.couplings[task]
    if value is None:
        return None
    if value not in coupling.net.params:
        return ("value", builder.laid[task, value])
    exprs = coupling.exprs(value)
    shape = tuple(fingerprint(coupling, e) for e in exprs)
    if free or any(a in coupling.produced for e in exprs for a in e.atoms()):
        return ("param", shape)
    return ("param", shape, hashlib.sha256(plain_mask(coupling.net, value).tobytes()).hexdigest())
