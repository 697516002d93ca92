"""Which axes of one net must change together: unification of the spaces that the operators' lines name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxzip.analysis.caches import Cache, cached_atoms, caches_of
from onnxzip.analysis.crosswise import Makes, against_themselves, made_across, pin_entangled
from onnxzip.analysis.embeddings import embedded
from onnxzip.analysis.ends import held_by_ports, input_atoms, pin_last, writing_inputs
from onnxzip.analysis.nesting import nest, standing_alone
from onnxzip.analysis.padding import Grown, Padded, grow
from onnxzip.analysis.places import told_by_place
from onnxzip.analysis.refusals import named
from onnxzip.analysis.spaces import Expr, Space, finish
from onnxzip.analysis.stacking import join_parts, pin_stacked
from onnxzip.analysis.unification import SpaceMismatch, meet, standing_for_all
from onnxzip.net import Axis, Net, Node, consumers, follow_each_other
from onnxzip.ops import Line, Linear, Symmetry, View, find, why_unknown
from onnxzip.ops.notation import Term, expand, is_remaining, parse

Weighted = Mapping[str, tuple[Linear, View]]  # by name, each node with weights of its own: how it is a matrix product


@dataclass(frozen=True)
class Coupling:
    """Channel spaces of every axis of a net.

    Attributes:
        net: the net.
        axes: the space of each axis.
        names: per node, the spaces of its line's names.
        whole: per node, atoms of which it needs all channels at once.
        produced: atoms that are output channels of a node with weights, or columns of a table alone, and none of an input:
            those that can be matched at all.
        inside: atom -> the produced atom that it lies inside of: channels of heads, whose order is found head by head.
        kept: atoms that weights produce, too, but in a fixed order inside of those of a produced one, or across them.
        grown: per axis to which a node adds channels, atoms of those that are there, and of those that are added.
        pinned: atoms whose channels must stay where they are, with the reason.
        ordered: atoms along which a node takes neighbours together (the bins of a spectrum that a convolution runs over, the
            channels that an LRN sums).
        weighted: its nodes with weights of their own.
        refusals: (node, reason) for every node that could not be coupled, or begins a tail.
    """

    net: Net
    axes: Mapping[Axis, Expr]
    names: Mapping[str, Mapping[str, Expr]]
    whole: Mapping[str, frozenset[int]]
    produced: frozenset[int]
    inside: Mapping[int, int]
    kept: frozenset[int]
    grown: tuple[tuple[frozenset[int], frozenset[int]], ...]
    pinned: Mapping[int, str]
    ordered: frozenset[int]
    weighted: Weighted
    refusals: tuple[tuple[str, str], ...]

    def exprs(self, value: str) -> tuple[Expr, ...]:
        """The spaces of a value's axes."""
        return tuple(self.axes[Axis(value, d)] for d in range(len(self.net.shapes[value])))


def view_of(net: Net, node: Node) -> View:
    """The node with the shapes around it."""
    return View(
        node,
        tuple(net.shape_of(v) for v in node.inputs),
        tuple(net.shapes[v] for v in node.outputs),
        tuple(v in net.params for v in node.inputs),
    )


def linear_view(net: Net, node: Node) -> tuple[Linear, View] | None:
    """How a node with weights of its own is a matrix product; None for every other node."""
    operator = find(node.op)
    if operator is None or operator.linear is None:
        return None
    view = view_of(net, node)
    linear = operator.linear
    if not view.constant[linear.weight] or view.constant[0] or operator.symmetry_for(view) < Symmetry.SCALING:
        return None
    if node.input(linear.bias) is not None and (not view.constant[linear.bias] or len(view.inputs[linear.bias] or ()) != 1):
        return None
    return linear, view


def makes_kept(coupling: Coupling, node: Node) -> bool:
    """Whether a node has weights of its own that are not fitted: all that they make keeps its order."""
    linear, view = coupling.weighted.get(node.name, (None, None))
    if linear is None or view is None:
        return False
    return coupling.kept.issuperset(coupling.axes[Axis(node.outputs[0], linear.channel(view))].atoms())


@dataclass
class _Builder:
    net: Net
    weighted: Weighted
    broad: frozenset[Axis]
    caches: tuple[Cache, ...]
    axes: dict[Axis, Space] = field(default_factory=dict)
    names: dict[str, dict[str, Space]] = field(default_factory=dict)
    whole: dict[str, list[Space]] = field(default_factory=dict)
    pins: list[tuple[Space, str]] = field(default_factory=list)
    ordered: list[Space] = field(default_factory=list)
    placed: list[tuple[Node, Space]] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    torn: list[tuple[Node, str, list[Space]]] = field(default_factory=list)
    padded: list[Padded] = field(default_factory=list)

    def axis(self, value: str, dim: int) -> Space:
        return self.axes.setdefault(Axis(value, dim), Space(self.net.shapes[value][dim]))

    def refuse(self, node: Node, why: str) -> None:
        self.refusals.append((node.name, why))
        for value in [*node.inputs, *node.outputs]:
            if value is not None:
                spaces = (self.axis(value, dim) for dim in range(len(self.net.shapes[value])))
                self.pins += [(space, f"{node.op} {node.name!r}: {why}") for space in spaces]

    def add(self, node: Node) -> None:
        """Couple the axes of one node, or refuse it."""
        operator = find(node.op)
        if operator is None:
            return self.refuse(node, str(why_unknown(node.op)))
        present = [v for v in node.inputs if v is not None]
        if any(node.input(k) is not None for k in operator.constants):
            return self.refuse(node, "an input that must be constant is computed")
        try:
            line = operator.line_for(view_of(self.net, node))
            self.couple(node, line, present)
        except (SpaceMismatch, ValueError) as e:
            return self.refuse(node, str(e))
        return None

    def couple(self, node: Node, line: Line, present: list[str]) -> None:
        left, right = parse(line.text)
        left, right = left or ((),) * len(present), right or ((),) * len(node.outputs)  # single numbers have no axes
        values = [*present, *node.outputs]
        if len(left) + len(right) != len(values):
            raise SpaceMismatch(f"line {line.text!r} does not fit {len(present)} inputs and {len(node.outputs)} outputs")
        labels = {name: Space(size) for name, size in line.sizes.items()}
        terms: list[tuple[Term, Space]] = []
        named: list[list[Term]] = []
        linear = node.name in self.weighted
        for pattern, value in zip([*left, *right], values, strict=True):
            named.append(expand(pattern, len(self.net.shapes[value])))
        placed = [(t, v, d) for some, v in zip(named, values, strict=True) for d, t in enumerate(some) if t.names]
        broad = {t.single for t, v, d in placed if self.net.shapes[v][d] != 1}
        broad |= {n for n, size in line.sizes.items() if size != 1}
        for term, value, dim in placed:
            alone = term.single is not None and term.single not in broad  # else one channel stands for all of some axis
            if self.net.shapes[value][dim] != 1 or linear or (alone and Axis(value, dim) not in self.broad):
                terms.append((term, self.axis(value, dim)))
        for term, space in sorted(terms, key=lambda pair: len(pair[0].names)):
            try:
                meet(term, space, labels)
            except SpaceMismatch as why:  # this axis stays as it is; the others couple all the same
                self.torn.append((node, str(why), [space, *(labels[n] for n in term.names if n in labels)]))
        self.names[node.name] = labels
        before, after = named[: len(left)], named[len(left) :]
        whole = line.whole | line.ordered | (set() if linear else _contracted(before, after))
        self.whole[node.name] = [labels[n] for n in sorted(whole) if n in labels]
        self.ordered += [labels[n] for n in sorted(line.ordered | _neighbouring(before, after)) if n in labels]
        for source, (target, front, back) in line.padded.items():
            one, other = (labels.setdefault(name, Space(1)) for name in (source, target))
            self.padded.append(Padded(node, one, other, front, back))
        for name in line.pinned.difference(*((i, o) for i, (o, *_) in line.padded.items())):
            if name in labels:
                self.placed.append((node, labels[name]))


def _contracted(left: list[list[Term]], right: list[list[Term]]) -> set[str]:
    """Names of whole input axes that no output has: what is summed over, so that no part of it will do."""
    kept = {n for terms in right for t in terms for n in t.names}
    return {t.names[0] for terms in left for t in terms if t.single is not None} - kept


def _neighbouring(left: list[list[Term]], right: list[list[Term]]) -> set[str]:
    """Names of the remaining axes that do not go through as they are: windows run along them."""
    before, after = ({n for terms in side for t in terms for n in t.names} for side in (left, right))
    return {n for n in before ^ after if is_remaining(n)}


def couple(net: Net) -> Coupling:
    """Find the channel spaces of a net.

    A node that cannot be coupled becomes a refusal that pins the spaces around it; it never raises.
    """
    weighted = {n.name: found for n in net.nodes if (found := linear_view(net, n)) is not None}
    builder = _Builder(net, weighted, standing_for_all(net), caches_of(net))
    for value in [p.name for p in (*net.inputs, *net.outputs)] + list(net.params):
        for dim in range(len(net.shapes[value])):
            builder.axis(value, dim)
    for node in net.nodes:
        builder.add(node)
    makes = makes_of(weighted)
    grown, pins = grow(builder.padded, [builder.axis(made.value, made.dim) for _, made in makes.values()])
    builder.pins += pins
    builder.pins += [(builder.axis(*axis), why) for axis, why in held_by_ports(net, builder.caches)]
    for node in net.nodes:
        for out in node.outputs:
            for dim in range(len(net.shapes[out])):
                builder.axis(out, dim)
    for node, why, spaces in builder.torn:
        builder.pins += [(space, f"{node.op} {node.name!r}: {why}") for space in spaces]
    return _finished(builder, makes, grown)


def _finished(builder: _Builder, makes: Mapping[str, Makes], grown: Sequence[Grown]) -> Coupling:
    net, numbers = builder.net, dict[int, int]()
    stuck = join_parts(builder.axes)
    axes = {axis: finish(space, numbers) for axis, space in builder.axes.items()}
    names = {n: {k: finish(s, numbers) for k, s in labels.items()} for n, labels in builder.names.items()}
    written = {name: axes[axis] for name, (_, axis) in makes.items()}
    made = {name: frozenset(expr.atoms()) for name, expr in written.items()}
    lined, inner = cached_atoms(builder.caches, axes, written.values())
    inputs = input_atoms(net, axes) - lined - inner
    produced = frozenset[int]().union(*made.values()) - inputs
    produced |= embedded(net, axes, makes, produced | inputs)
    produced -= _atoms((stack for _, stack, _ in stuck), numbers)
    begins = () if net.tail is None else net.tail.begins
    refusals = [*builder.refusals, *_torn_channels(builder, produced, numbers)]
    refusals += [(f"value {value!r}", f"its channels stand for those of several parts; {why}") for value, _, why in stuck]
    pinned: dict[int, str] = {}
    for space, why in builder.pins:
        for atom in finish(space, numbers).atoms():
            pinned.setdefault(atom, why)
    _pin_tied(net, axes, builder.weighted, pinned)
    pin_stacked(net, axes, pinned)
    _pin_told_apart(builder, numbers, pinned)
    pin_last(net, builder.caches, made, pinned)
    placed = [(node, _atoms([space], numbers)) for node, space in builder.placed]
    ordered, told = told_by_place(net, axes, placed, written.values(), produced, _atoms(builder.ordered, numbers), pinned)
    read = standing_alone(axes[axis] for axis, _ in makes.values())
    nesting = nest(net, axes, produced, produced - ordered - inner - set(pinned), written.values(), read)
    produced -= nesting.kept
    ordered |= lined & produced
    across = made_across(net, axes, tuple(makes.values()), produced, inputs.union(ordered, pinned))
    refusals += [*writing_inputs(made, inputs - across), *begins]
    kept = nesting.kept | across
    produced -= kept
    across_axes = pin_entangled(net, axes, makes, produced - set(nesting.inside), ordered, pinned)
    inside = {a: head for a, head in nesting.inside.items() if head not in pinned}
    produced -= set(nesting.inside)
    square = against_themselves(net, axes)
    whole = {n: _atoms(s, numbers).union(square[n], across_axes.get(n, ()), told.get(n, ())) for n, s in builder.whole.items()}
    added = tuple((_atoms([there], numbers), _atoms(new, numbers)) for there, new in grown)
    return Coupling(net, axes, names, whole, produced, inside, kept, added, pinned, ordered, builder.weighted, tuple(refusals))


def _atoms(spaces: Iterable[Space], numbers: dict[int, int]) -> frozenset[int]:
    """All that some spaces are made of."""
    return frozenset(a for space in spaces for a in finish(space, numbers).atoms())


def _pin_told_apart(builder: _Builder, numbers: dict[int, int], pinned: dict[int, str]) -> None:
    """The axis of a stack tells its parts apart: its channels keep their order."""
    for labels in builder.names.values():
        for axis in (s.axis for space in labels.values() if (s := space.resolved()).kind == "stack"):
            for atom in finish(axis, numbers).atoms() if axis is not None else ():
                pinned.setdefault(atom, "each of its channels has others of its own behind it")


def _torn_channels(builder: _Builder, produced: frozenset[int], numbers: dict[int, int]) -> Iterator[tuple[str, str]]:
    """Nodes with an axis of channels that could not be coupled; an axis of positions is none that anyone would share."""
    for node, why, spaces in builder.torn:
        if any(atom in produced for space in spaces for atom in finish(space, numbers).atoms()):
            yield node.name, why


def makes_of(weighted: Weighted) -> dict[str, Makes]:
    """By name, the axes that nodes with weights sum over and make, but for nodes whose channels are those of the input at the
    same place."""
    return {
        name: (Axis(str(view.node.inputs[0]), linear.channel(view)), Axis(view.node.outputs[0], linear.channel(view)))
        for name, (linear, view) in weighted.items() if not linear.diagonal(view)
    }


def _pin_tied(net: Net, axes: Mapping[Axis, Expr], weighted: Weighted, pinned: dict[int, str]) -> None:
    """Weights that several nodes read are fitted once for all of them; where one does something else with them, or adds other
    biases and reads what another has made, there is no such fit: the channels that they make stay as they are."""
    for param, readers in consumers(net.nodes).items():
        if param in net.params and len(readers) > 1 and net.params[param].ndim > 1:
            linear = [weighted[node.name] for node in readers if node.name in weighted]
            layers, alike = len(linear) == len(readers), len({node.inputs[1:] for node in readers}) == 1
            if layers and (alike or not follow_each_other(net.nodes, readers)):
                continue
            why = "one of which adds another bias to what another has made" if layers else "not all of which are layers"
            for record, view in linear:
                for atom in axes[Axis(view.node.outputs[0], record.channel(view))].atoms():
                    pinned.setdefault(atom, f"weights {param!r} are used by {named([n.name for n in readers])}, {why}")
