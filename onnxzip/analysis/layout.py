"""The fused net before its weights are known: which nodes run for whom, and what each reads.

Every laid-over value falls into pieces, one per strand. Nodes without weights run once per piece. A node with weights runs
once per strand of its output and reads, in layout `strands`, every piece whose readers include all owners of its rows; in
layout `wide` there is one piece, which all read. A node that needs all channels at once runs once where everything is shared,
else once per task over its joined pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnxzip.analysis.correspondence import Overlay, Role, unique
from onnxzip.analysis.coupling import view_of
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.steps import Step, weights_of
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.net import BATCH, Node, Shape
from onnxzip.ops import find


@dataclass(frozen=True)
class Piece:
    """A part of a laid-over value that the fused net computes.

    Attributes:
        name: of the fused net's value.
        laid: the laid-over value.
        task: one of the tasks whose expressions describe it.
        keys: the strands that it is made of, in order; empty where the value carries no channels.
        owners: the tasks that need it.
    """

    name: str
    laid: str
    task: str
    keys: tuple[Owners, ...]
    owners: Owners


@dataclass(frozen=True)
class Weights:
    """A param of the fused net that a step fits.

    Attributes:
        name: of the fused param.
        step, role: which fit, which part of it.
        key: strand of its rows; pieces: what its columns read.
        bias: whether it is the bias.
    """

    name: str
    step: str
    role: str
    key: Owners
    pieces: tuple[Piece, ...]
    bias: bool


@dataclass(frozen=True)
class Taken:
    """A param of the fused net that is taken over from the originals, averaged over its owners.

    Attributes:
        name: of the fused param; laid: the laid-over param; keys: the strands of its channels; owners: who it is averaged over.
    """

    name: str
    laid: str
    keys: tuple[Owners, ...]
    owners: Owners


@dataclass(frozen=True)
class Placed:
    """A node of the fused net: the tasks that need it and the role it was made from (None for Concat and Split)."""

    node: Node
    owners: Owners
    role: str | None


@dataclass(frozen=True)
class Layout:
    """The fused net without its weights.

    Attributes:
        placed: nodes in topological order.
        pieces: laid-over value -> pieces by the key of the strand (or the readers) they stand for.
        weights: params to be fitted; taken: params that are taken over.
        shapes: of every value and param of the fused net.
        outputs: task -> (name, piece) per output of its net.
        starved: (space, key) of strands whose rows have nothing to read.
        torn: spaces that a node needs whole in an order which pieces cannot give.
    """

    placed: tuple[Placed, ...]
    pieces: Mapping[str, Mapping[Owners, Piece]]
    weights: tuple[Weights, ...]
    taken: tuple[Taken, ...]
    shapes: Mapping[str, Shape]
    outputs: Mapping[str, tuple[tuple[str, Piece], ...]]
    starved: frozenset[tuple[int, Owners]]
    torn: Mapping[int, str]


class Sizes:
    """Sizes of expressions restricted to some strands."""

    def __init__(self, spaces: Mapping[int, SpacePlan]) -> None:
        self.spaces = spaces
        self.strand = {(n, s.key): s.size for n, p in spaces.items() for s in p.strands}

    def carried(self, expr: Expr) -> tuple[int, ...]:
        """The channel spaces in an expression."""
        return tuple(a for a in expr.atoms() if a in self.spaces)

    def restrict(self, expr: Expr, keys: tuple[Owners, ...]) -> Expr:
        """The expression over the channels of some strands."""
        return expr.mapped(
            lambda a: replace(a, size=sum(self.strand.get((a.atom, k), 0) for k in keys)) if a.atom in self.spaces else a
        )

    def shape(self, exprs: tuple[Expr, ...], keys: tuple[Owners, ...]) -> Shape:
        return tuple(self.restrict(e, keys).size for e in exprs)


@dataclass
class _Builder:
    overlay: Overlay
    steps: tuple[Step, ...]
    spaces: Mapping[int, SpacePlan]
    sizes: Sizes = field(init=False)
    placed: list[Placed] = field(default_factory=list)
    pieces: dict[str, dict[Owners, Piece]] = field(default_factory=dict)
    weights: list[Weights] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    starved: set[tuple[int, Owners]] = field(default_factory=set)
    torn: dict[int, str] = field(default_factory=dict)
    joined: dict[tuple[str, ...], str] = field(default_factory=dict)
    value_names: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sizes = Sizes(self.spaces)
        self.step_of = {p.name: s for s in self.steps for p in s.parts}

    # names ------------------------------------------------------------------------------------------------------------

    def fresh(self, base: str, owners: Owners, alone: bool, taken: set[str]) -> str:
        """A name for the piece of something: its own where it is the only one or shared by most, else with its owners."""
        label = base if alone else f"{'_'.join(sorted(owners, key=self.overlay.tasks.index))}_{base}"
        return unique(label, "fused", taken)

    # values -----------------------------------------------------------------------------------------------------------

    def is_stranded(self, laid: str) -> bool:
        task = next(iter(self.overlay.values[laid]))
        return any(self.sizes.carried(e) for e in self.overlay.exprs(laid, task))

    def stranded_axis(self, laid: str) -> int:
        task = next(iter(self.overlay.values[laid]))
        return next(d for d, e in enumerate(self.overlay.exprs(laid, task)) if self.sizes.carried(e))

    def put(self, laid: str, key: Owners, keys: tuple[Owners, ...], owners: Owners, alone: bool, base: str) -> Piece:
        """Announce a piece of a value."""
        task = next(t for t in self.overlay.tasks if t in owners)
        piece = Piece(self.fresh(base, owners, alone, self.value_names), laid, task, keys, owners)
        self.shapes[piece.name] = self.sizes.shape(self.overlay.exprs(laid, task), keys)
        self.pieces.setdefault(laid, {})[key] = piece
        return piece

    def place(self, op: str, base: str, inputs: list[str | None], outputs: tuple[str, ...], attrs: Mapping[str, object],
              owners: Owners, role: str | None) -> None:
        name = unique(base, "fused", self.node_names)
        self.placed.append(Placed(Node(name, op, tuple(inputs), outputs, attrs), owners, role))

    def base_name(self, laid: str, owners: Owners) -> str:
        """The name that the first owner's net gives to a laid-over value or param."""
        by_task = self.overlay.values[laid]
        return by_task[next(t for t in self.overlay.tasks if t in owners and t in by_task)]

    # joins ------------------------------------------------------------------------------------------------------------

    def concatenated(self, pieces: tuple[Piece, ...], axis: int, owners: Owners) -> str:
        """One value made of pieces, one after the other."""
        if len(pieces) == 1:
            return pieces[0].name
        names = tuple(p.name for p in pieces)
        if names not in self.joined:
            out = unique(f"{names[-1]}_joined", "fused", self.value_names)
            first = self.shapes[names[0]]
            total = sum(self.shapes[n][axis] for n in names)
            self.shapes[out] = (*first[:axis], total, *first[axis + 1 :])
            self.place("Concat", out, list(names), (out,), {"axis": axis}, owners, None)
            self.joined[names] = out
        return self.joined[names]

    def joined_for(self, laid: str, task: str) -> Piece | None:
        """All channels of one task in the order of the value's own axis; None where pieces cannot give that order."""
        mine = {k: p for k, p in self.pieces[laid].items() if task in p.owners or task in k}
        keys = tuple(k for p in mine.values() for k in p.keys)
        pieces = tuple(mine.values())
        if len(pieces) == 1:
            return pieces[0]
        axis = self.stranded_axis(laid)
        expr = self.overlay.exprs(laid, task)[axis]
        owners = frozenset([task])
        if _splits_in_front(expr, self.sizes):
            return Piece(self.concatenated(pieces, axis, owners), laid, task, keys, owners)
        if expr.kind == "sum" and all(_splits_in_front(p, self.sizes) for p in expr.parts):
            return Piece(self.interleaved(pieces, axis, expr, owners), laid, task, keys, owners)
        for number in self.sizes.carried(expr):
            self.torn[number] = f"value {self.overlay.values[laid][task]!r} needs its channels in an order that strands break"
        return None

    def interleaved(self, pieces: tuple[Piece, ...], axis: int, expr: Expr, owners: Owners) -> str:
        """Pieces of a concatenation put together part by part: Split each, Concat all in the parts' order."""
        names = ("interleaved", *(p.name for p in pieces))
        if names in self.joined:
            return self.joined[names]
        by_part: list[list[str]] = [[] for _ in expr.parts]
        for piece in pieces:
            lengths = [self.sizes.restrict(part, piece.keys).size for part in expr.parts]
            present = [k for k, n in enumerate(lengths) if n]
            shape = self.shapes[piece.name]
            outs = [unique(f"{piece.name}_part{k}", "fused", self.value_names) for k in present]
            for k, out in zip(present, outs, strict=True):
                self.shapes[out] = (*shape[:axis], lengths[k], *shape[axis + 1 :])
                by_part[k].append(out)
            split = tuple(lengths[k] for k in present)
            self.place("Split", f"{piece.name}_split", [piece.name], tuple(outs), {"axis": axis, "split": split}, owners, None)
        out = unique(f"{pieces[-1].name}_interleaved", "fused", self.value_names)
        shape = self.shapes[pieces[0].name]
        flat = [n for part in by_part for n in part]
        self.shapes[out] = (*shape[:axis], sum(self.shapes[n][axis] for n in flat), *shape[axis + 1 :])
        self.place("Concat", out, list(flat), (out,), {"axis": axis}, owners, None)
        self.joined[names] = out
        return out

    # roles ------------------------------------------------------------------------------------------------------------

    def add(self, role: Role) -> None:
        step = self.step_of.get(role.name)
        if step is None:
            self.add_plain(role)
        elif step.diagonal:
            self.add_diagonal(role, step)
        else:
            self.add_dense(role, step)

    def add_dense(self, role: Role, step: Step) -> None:
        """One node per strand of the output; it reads every piece that all its rows' owners can read."""
        members = frozenset(role.members)
        task = next(iter(role.members))
        found = weights_of(self.overlay, role, task)
        assert found is not None
        linear, view = found
        source = str(role.inputs[0])
        axis = linear.channel(view)
        keys = self.out_keys(role.outputs[0], members)
        for key in keys:
            owners = key & members
            pieces = tuple(p for k, p in self.pieces[source].items() if owners <= k)
            piece = self.put(role.outputs[0], key, (key,), owners, len(keys) == 1, self.base_name(role.outputs[0], owners))
            if not pieces:
                self.starved.update((n, key) for n in self.sizes.carried(self.overlay.exprs(role.outputs[0], task)[axis]))
                continue
            group_parts = self.group_parts(source, axis, task, role)
            if group_parts is not None and len(pieces) > 1:
                value = self.interleaved(pieces, axis, group_parts, owners)
            else:
                value = self.concatenated(pieces, axis, owners)
            self.place_weights(role, step, key, pieces, value, piece, owners, len(keys) == 1)

    def group_parts(self, source: str, axis: int, task: str, role: Role) -> Expr | None:
        """The concatenation of groups that a grouped node reads; None for other nodes."""
        found = weights_of(self.overlay, role, task)
        assert found is not None
        linear, view = found
        weight = self.overlay.couplings[task].net.params[str(role.members[task].inputs[linear.weight])]
        if linear.to_matrix(view, weight).shape[0] == 1:
            return None
        return self.overlay.exprs(source, task)[axis]

    def add_diagonal(self, role: Role, step: Step) -> None:
        """One node per piece of the input: each channel reads itself."""
        members = frozenset(role.members)
        source = self.pieces[str(role.inputs[0])]
        wanted = {k: p for k, p in source.items() if p.owners & members}
        for key, read in wanted.items():
            owners = read.owners & members
            alone = len(wanted) == 1
            piece = self.put(role.outputs[0], key, read.keys, owners, alone, self.base_name(role.outputs[0], owners))
            self.place_weights(role, step, key, (read,), read.name, piece, owners, alone)

    def place_weights(self, role: Role, step: Step, key: Owners, pieces: tuple[Piece, ...], value: str, out: Piece,
                      owners: Owners, alone: bool) -> None:
        """Place a node with weights of its own."""
        task = out.task
        found = weights_of(self.overlay, role, task)
        assert found is not None
        linear, view = found
        node = role.members[task]
        inputs: list[str | None] = [value, *([None] * max(linear.bias, len(node.inputs) - 1))]
        shape = self.weight_shape(role, step, task, key, pieces, out)
        name = self.fresh(self.base_name(str(role.inputs[linear.weight]), owners), owners, alone, self.value_names)
        inputs[linear.weight] = name
        self.shapes[name] = shape
        self.weights.append(Weights(name, step.name, role.name, key, pieces, False))
        if role.name == step.parts[0].name:
            own_bias = role.inputs[linear.bias] if len(role.inputs) > linear.bias else None
            base = self.base_name(own_bias, owners) if own_bias is not None else f"{name}_bias"
            bias = self.fresh(base, owners, alone or own_bias is None, self.value_names)
            inputs[linear.bias] = bias
            self.shapes[bias] = (self.shapes[out.name][linear.channel(view)],)
            self.weights.append(Weights(bias, step.name, role.name, key, pieces, True))
        for k, laid in enumerate(role.inputs):
            if k > 0 and k not in (linear.weight, linear.bias) and laid is not None:
                inputs[k] = self.take(laid, out.keys, owners, alone)
        while inputs and inputs[-1] is None:
            inputs.pop()
        attrs = self.attrs(role, task, tuple(self.shapes.get(v) if v else None for v in inputs), (out,), out.keys)
        base = self.overlay_node_name(role, owners)
        self.place(node.op, self.fresh(base, owners, alone, set()), inputs, (out.name,), attrs, owners, role.name)

    def weight_shape(self, role: Role, step: Step, task: str, key: Owners, pieces: tuple[Piece, ...], out: Piece) -> Shape:
        """The fused weights' shape: the original's with its channel axes cut to what is read and what is written."""
        found = weights_of(self.overlay, role, task)
        assert found is not None
        linear, view = found
        weight = str(role.members[task].inputs[linear.weight])
        net = self.overlay.couplings[task].net
        groups, rows, taps, columns = linear.to_matrix(view, net.params[weight]).shape
        written = self.shapes[out.name][linear.channel(view)]
        read = sum(self.shapes[p.name][linear.channel(view)] for p in pieces)
        fused_groups = read if step.diagonal else groups
        per_group = 1 if step.diagonal else read // groups
        import numpy as np

        empty = np.broadcast_to(np.float32(0), (fused_groups, written // fused_groups, taps, per_group))
        return tuple(linear.from_matrix(view, empty).shape)

    def overlay_node_name(self, role: Role, owners: Owners) -> str:
        return role.members[next(t for t in self.overlay.tasks if t in owners and t in role.members)].name

    def take(self, laid: str, keys: tuple[Owners, ...], owners: Owners, alone: bool) -> str:
        """Announce a param that is taken over from the originals."""
        task = next(t for t in self.overlay.tasks if t in owners)
        wanted = keys if self.is_stranded(laid) else ()
        for known in self.taken:
            if (known.laid, known.keys) == (laid, wanted) and (owners <= known.owners or not wanted):
                return known.name
        name = self.fresh(self.base_name(laid, owners), owners, alone or not wanted, self.value_names)
        self.shapes[name] = self.sizes.shape(self.overlay.exprs(laid, task), wanted)
        self.taken.append(Taken(name, laid, wanted, owners))
        return name

    def out_keys(self, laid: str, members: Owners) -> list[Owners]:
        """Keys of the strands that a node with weights produces."""
        task = next(iter(t for t in self.overlay.tasks if t in members))
        carried = [n for e in self.overlay.exprs(laid, task) for n in self.sizes.carried(e)]
        keys = dict.fromkeys(s.key for n in carried for s in self.spaces[n].strands if s.key & members)
        return list(keys) if carried else [frozenset([t]) for t in self.overlay.tasks if t in members]

    def add_plain(self, role: Role) -> None:
        """A node without weights: once per piece where the pieces of its inputs fit, else once per task."""
        members = frozenset(role.members)
        computed = [v for v in role.inputs if v is not None and v in self.pieces]
        keys = self.piece_keys(role, computed, members)
        if keys is not None:
            for key in keys:
                owners = key & members
                read = {v: self.readable(v, key, owners) for v in computed}
                self.place_plain(role, key, owners, read, len(keys) == 1)
            return
        for task in role.members:
            own = frozenset([task])
            joined = {v: self.joined_for(v, task) for v in computed}
            read = {v: p if p is not None else next(iter(self.pieces[v].values())) for v, p in joined.items()}
            self.place_plain(role, own, own, read, len(role.members) == 1)

    def readable(self, laid: str, key: Owners, owners: Owners) -> Piece | None:
        """The piece that a node running for a key reads."""
        pieces = self.pieces[laid]
        if key in pieces:
            return pieces[key]
        if self.is_stranded(laid):
            return None
        return next((p for k, p in pieces.items() if owners <= k), None)

    def piece_keys(self, role: Role, computed: list[str], members: Owners) -> list[Owners] | None:
        """The keys for which a node without weights runs piece by piece; None where it must run per task."""
        stranded = [v for v in computed if self.is_stranded(v)]
        pool = stranded or computed
        keys = list(dict.fromkeys(k for v in pool for k in self.pieces[v] if k & members))
        if not stranded:
            keys = [k for k in keys if not any(other & members < k & members for other in keys)]
        if not computed:
            return [members]
        for key in keys:
            for value in computed:
                if self.readable(value, key, key & members) is None and role.op != "Concat":
                    return None
        if any(len(p.keys) > 1 for v in stranded for p in self.pieces[v].values() if p.owners & members):
            if any(len(p.keys) == 1 and len(self.pieces[v]) > 1 for v in stranded for p in self.pieces[v].values()):
                return None
        return keys if self.whole_fits(role, keys, members) else None

    def whole_fits(self, role: Role, keys: list[Owners], members: Owners) -> bool:
        """Whether all channels that a node needs at once lie in one piece of one owner set."""
        for task, node in role.members.items():
            for atom in self.overlay.couplings[task].whole.get(node.name, ()):
                plan = self.spaces.get(self.overlay.spaces[task, atom])
                if plan is None:
                    continue
                mine = [s for s in plan.strands if task in s.key]
                if any(len(s.rows) > 1 for s in mine):
                    self.torn[plan.number] = f"{node.op} {node.name!r} needs all channels of each task alone"
                if len(mine) > 1:
                    return False
        return True

    def place_plain(self, role: Role, key: Owners, owners: Owners, read: Mapping[str, Piece | None], alone: bool) -> None:
        task = next(t for t in self.overlay.tasks if t in owners and t in role.members)
        sources = [p for p in read.values() if p is not None]
        keys = next((p.keys for p in sources if p.keys), ())
        inputs: list[str | None] = [None] * len(role.inputs)
        for k, laid in enumerate(role.inputs):
            if laid in read:
                piece = read[laid]
                inputs[k] = piece.name if piece is not None else None
            elif laid is not None:
                inputs[k] = self.take(laid, keys, owners, alone)
        if role.op == "Concat":
            inputs = [v for v in inputs if v is not None]
        else:
            inputs = [inputs[k] for k in sorted(range(len(inputs)), key=lambda k: role.order[task][k])]
        outs = tuple(
            self.put(o, key, keys if self.is_stranded(o) else (), owners, alone, self.base_name(o, owners)) for o in role.outputs
        )
        attrs = self.attrs(role, task, tuple(self.shapes.get(v) if v else None for v in inputs), outs, keys)
        base = self.fresh(self.overlay_node_name(role, owners), owners, alone, set())
        self.place(role.op, base, inputs, tuple(p.name for p in outs), attrs, owners, role.name)

    def attrs(self, role: Role, task: str, inputs: tuple[Shape | None, ...], outs: tuple[Piece, ...],
              keys: tuple[Owners, ...]) -> dict[str, object]:
        """The node's attributes, with those that depend on numbers of channels made anew."""
        node = role.members[task]
        operator = find(node.op)
        attrs = dict(node.attrs)
        if operator is not None and operator.adapt is not None:
            names = self.overlay.couplings[task].names.get(node.name, {})
            sizes = {n: self.sizes.restrict(self.overlay.expr(e, task), keys).size for n, e in names.items()}
            attrs |= operator.adapt(node, inputs, tuple(self.shapes[p.name] for p in outs), sizes)
        return attrs


def _splits_in_front(expr: Expr, sizes: Sizes) -> bool:
    """Whether pieces of an axis, put one after the other, lie in the axis' own order: nothing stands before what is split."""
    if expr.kind == "atom":
        return True
    return expr.kind == "product" and _splits_in_front(expr.parts[0], sizes) and not any(sizes.carried(p) for p in expr.parts[1:])


def lay_out(overlay: Overlay, steps: tuple[Step, ...], spaces: Mapping[int, SpacePlan]) -> Layout:
    """Build the fused net without its weights."""
    builder = _Builder(overlay, steps, spaces)
    everyone = frozenset(overlay.tasks)
    for port in overlay.couplings[overlay.tasks[0]].net.inputs:
        keys = (everyone,) if builder.is_stranded(port.name) else ()
        builder.put(port.name, everyone, keys, everyone, True, port.name)
    for role in overlay.roles:
        builder.add(role)
    outputs = {t: tuple(_outputs(builder, t)) for t in overlay.tasks}
    return Layout(
        tuple(builder.placed), builder.pieces, tuple(builder.weights), tuple(builder.taken), builder.shapes, outputs,
        frozenset(builder.starved), builder.torn,
    )


def _outputs(builder: _Builder, task: str) -> list[tuple[str, Piece]]:
    """The pieces that a task's outputs are."""
    found = []
    net = builder.overlay.couplings[task].net
    laid_of = {v[task]: laid for laid, v in builder.overlay.values.items() if task in v}
    for port in net.outputs:
        pieces = builder.pieces[laid_of[port.name]]
        found.append((port.name, next(p for k, p in pieces.items() if task in p.owners or task in k)))
    return found


def positions_per_sample(shape: Shape, channel: int) -> int:
    """Positions at which a value of this shape holds all its channels, per sample."""
    return math.prod(abs(d) for k, d in enumerate(shape) if k != channel and not (k == 0 and d == BATCH))


__all__ = ["Layout", "Piece", "Placed", "Sizes", "Taken", "Weights", "lay_out", "positions_per_sample", "view_of"]
