"""lay_out: which nodes of the fused net run for whom, and what each reads.

Every laid-over value falls into pieces, one per strand. Nodes without weights run once per piece. A node with weights runs
once per strand of its output and reads, in layout `strands`, every piece whose readers include all owners of its rows; in
layout `wide` there is one piece, which all read. A node that needs all channels at once runs once where everything is shared,
else once per task over its joined pieces.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from onnxzip.analysis.drafting import Draft
from onnxzip.analysis.hearing import heard
from onnxzip.analysis.layout import Layout, Part, Piece, Weights
from onnxzip.analysis.leading import led_parts, place_led
from onnxzip.analysis.roles import Overlay, Role
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.steps import Step, groups_of, linear_of
from onnxzip.analysis.strands import Owners, SpacePlan, finest
from onnxzip.loading.inputs import names_of
from onnxzip.net import Shape, output_name
from onnxzip.ops import find


class _Rules:
    """How each kind of role is laid out."""

    def __init__(self, draft: Draft, steps: tuple[Step, ...]) -> None:
        self.draft = draft
        self.step_of = {p.name: s for s in steps for p in s.parts}

    def add(self, role: Role) -> None:
        why = next((self.draft.apart[v] for v in role.inputs if v in self.draft.apart), None)
        self.draft.apart |= dict.fromkeys(role.outputs, why) if why is not None else {}
        if (step := self.step_of.get(role.name)) is None:
            self.add_plain(role)
            return
        self.tear_windows(role)
        (self.add_diagonal if step.diagonal else self.add_dense)(role, step)

    def tear_windows(self, role: Role) -> None:
        """The windows of a node with weights run along channels only where each task has all of them in one piece."""
        task, source = next(iter(role.members)), str(role.inputs[0])
        linear, view = linear_of(self.draft.overlay, role, task)
        if not self.draft.is_even(role.outputs[0]):
            why = "runs along channels that are not shared as what it makes is"
            self.tear(self.carried(role.outputs, task), role, task, why)
        if not self.draft.is_stranded(source) or self.draft.stranded_axis(source) == linear.channel(view):
            return
        if any(sum(t in p.owners for p in self.draft.pieces[source].values()) > 1 for t in role.members):
            self.tear(self.carried([source], task), role, task, "takes neighbours together, of which not all are shared alike")

    def tear(self, numbers: Collection[int], role: Role, task: str, why: str) -> None:
        self.draft.torn |= dict.fromkeys(numbers, f"{role.op} {role.members[task].name!r} {why}")

    def add_dense(self, role: Role, step: Step) -> None:
        """One node per strand of the output; it reads every piece that all its rows' owners can read."""
        members = frozenset(role.members)
        task = next(iter(role.members))
        linear, view = linear_of(self.draft.overlay, role, task)
        source = str(role.inputs[0])
        axis = linear.channel(view)
        keys = self.strands_written(role, members)
        for key, strands in keys.items():
            owners = key & members
            pieces = tuple(p for k, p in self.draft.pieces[source].items() if owners <= k)
            base = self.draft.base_name(role.outputs[0], owners)
            piece = self.draft.put(role.outputs[0], key, strands, owners, len(keys) == 1, base)
            if not pieces:
                written = self.draft.overlay.exprs(role.outputs[0], task)[axis]
                why = self.draft.apart.get(source, "")
                self.draft.starved |= {(n, key): why for n in self.draft.sizes.carried(written)}
                continue
            group_parts = self.group_parts(source, axis, task, role)
            if group_parts is not None and len(pieces) > 1:
                value = self.draft.interleaved(pieces, axis, group_parts, owners)
            else:
                value = self.draft.concatenated(pieces, axis, owners)
            self.place_weights(role, step, key, pieces, value, piece, owners, len(keys) == 1)

    def strands_written(self, role: Role, members: Owners) -> dict[Owners, tuple[Owners, ...]]:
        """Keys for which a node with weights runs, and the strands it writes: of given channels every task writes its own."""
        keys = self.draft.out_keys(role.outputs[0], members)
        numbers = self.carried(role.outputs, next(iter(role.members)))
        if numbers and self.draft.are_given(numbers):
            return {frozenset([t]): tuple(keys) for t in role.members}
        return {k: (k,) for k in keys}

    def group_parts(self, source: str, axis: int, task: str, role: Role) -> Expr | None:
        """The concatenation of groups that a grouped node reads; None for other nodes."""
        if groups_of(self.draft.overlay, role, task) == 1:
            return None
        return self.draft.overlay.exprs(source, task)[axis]

    def add_diagonal(self, role: Role, step: Step) -> None:
        """One node per piece of the input: each channel reads itself."""
        members = frozenset(role.members)
        source = self.draft.pieces[str(role.inputs[0])]
        wanted = {k: p for k, p in source.items() if p.owners & members}
        for key, read in wanted.items():
            owners = read.owners & members
            alone = len(wanted) == 1
            base = self.draft.base_name(role.outputs[0], owners)
            piece = self.draft.put(role.outputs[0], key, read.keys, owners, alone, base)
            self.place_weights(role, step, key, (read,), read.name, piece, owners, alone)

    def place_weights(self, role: Role, step: Step, key: Owners, pieces: tuple[Piece, ...], value: str, out: Piece,
                      owners: Owners, alone: bool) -> None:
        """Place a node with weights of its own."""
        task = out.task
        linear, view = linear_of(self.draft.overlay, role, task)
        node = role.members[task]
        inputs: list[str | None] = [value, *([None] * max(linear.bias, len(node.inputs) - 1))]
        shape = self.weight_shape(role, step, task, key, pieces, out)
        base = self.draft.base_name(str(role.inputs[linear.weight]), owners)
        name = self.draft.fresh(base, owners, alone, self.draft.value_names)
        inputs[linear.weight] = name
        self.draft.shapes[name] = shape
        self.draft.weights.append(Weights(name, step.name, role.name, key, pieces, False))
        if role.name == step.parts[0].name:
            own_bias = role.inputs[linear.bias] if len(role.inputs) > linear.bias else None
            base = self.draft.base_name(own_bias, owners) if own_bias is not None else f"{name}_bias"
            bias = self.draft.fresh(base, owners, alone or own_bias is None, self.draft.value_names)
            inputs[linear.bias] = bias
            self.draft.shapes[bias] = (self.draft.shapes[out.name][linear.channel(view)],)
            self.draft.weights.append(Weights(bias, step.name, role.name, key, pieces, True))
        for k, laid in enumerate(role.inputs):
            if k > 0 and k not in (linear.weight, linear.bias) and laid is not None:
                inputs[k] = self.draft.take(laid, out.keys, owners, alone)
        while inputs and inputs[-1] is None:
            inputs.pop()
        attrs = self.attrs(role, task, tuple(self.draft.shapes.get(v) if v else None for v in inputs), (out,), out.keys)
        base = self.overlay_node_name(role, owners)
        self.draft.place(node.op, self.draft.fresh(base, owners, alone, set()), inputs, (out.name,), attrs, owners, role.name)

    def weight_shape(self, role: Role, step: Step, task: str, key: Owners, pieces: tuple[Piece, ...], out: Piece) -> Shape:
        """The fused weights' shape: the original's with its channel axes cut to what is read and what is written."""
        linear, view = linear_of(self.draft.overlay, role, task)
        groups, _, taps, _ = linear.matrix(view, self.draft.overlay.couplings[task].net.params).shape
        written = self.draft.shapes[out.name][linear.channel(view)]
        read = sum(self.draft.shapes[p.name][linear.channel(view)] for p in pieces)
        fused_groups = read if step.diagonal else groups
        per_group = 1 if step.diagonal else read // groups
        empty = np.broadcast_to(np.float32(0), (fused_groups, written // fused_groups, taps, per_group))
        return tuple(linear.from_matrix(view, empty).shape)

    def overlay_node_name(self, role: Role, owners: Owners) -> str:
        return role.members[next(t for t in self.draft.overlay.tasks if t in owners and t in role.members)].name

    def add_plain(self, role: Role) -> None:
        """A node without weights: once per piece where the pieces of its inputs fit, else once per task."""
        members = frozenset(role.members)
        computed = [v for v in role.inputs if v is not None and v in self.draft.pieces]
        self.tear_unnamed(role, computed)
        keys = self.piece_keys(role, computed, members)
        for key, parts in (keys or {}).items():
            owners, alone = key & members, len(keys or ()) == 1
            read = {v: self.draft.readable(v, key, owners) for v in computed} | heard(self.draft, role, key, owners)
            if parts:
                place_led(self.draft, role, key, {v: p for v, p in read.items() if p is not None}, parts, alone)
            else:
                self.place_plain(role, key, owners, read, alone, (key,))
        if keys is not None:
            return
        for task in role.members:
            own = frozenset([task])
            joined = {v: self.draft.joined_for(v, task) for v in computed}
            read = {v: p if p is not None else next(iter(self.draft.pieces[v].values())) for v, p in joined.items()}
            every = tuple(k for k in self.draft.out_keys(role.outputs[0], members) if task in k)
            self.place_plain(role, own, own, read, len(role.members) == 1, every)

    def tear_unnamed(self, role: Role, computed: list[str]) -> None:
        """A channel that stands for all of an axis, or vanishes, is no channel to the node: it must be alone in its piece."""
        for task, node in role.members.items():
            named = {a for e in self.draft.overlay.couplings[task].names.get(node.name, {}).values() for a in e.atoms()}
            known = {n for a in named if (n := self.draft.overlay.spaces.get((task, a))) is not None}
            for plan in (self.draft.spaces[n] for n in self.carried(computed, task) - known):
                if any(task in s.key and len(s.rows) > 1 for s in plan.strands):
                    self.draft.torn[plan.number] = f"{node.op} {node.name!r} needs the one channel of {task!r} alone"

    def piece_keys(self, role: Role, computed: list[str], members: Owners) -> dict[Owners, tuple[Part, ...]] | None:
        """The keys for which a node without weights runs piece by piece, and into which parts these fall; None where it must
        run per task."""
        stranded = [v for v in computed if self.draft.is_stranded(v)]
        pool = stranded or computed
        keys = list(dict.fromkeys(k for v in pool for k in self.draft.pieces[v] if k & members))
        if not stranded and self.carried(role.outputs, next(iter(role.members))):
            keys = self.draft.out_keys(role.outputs[0], members)
        elif not computed:
            return {members: ()}
        elif not stranded:
            keys = finest(keys, members)
        for key in keys:
            for value in computed:
                dropped = role.op == "Concat" and self.draft.is_empty(value, (key,))
                if not dropped and self.draft.readable(value, key, key & members) is None:
                    return None
        plain = {p.keys == (k,) for v in stranded for k, p in self.draft.pieces[v].items() if p.owners & members}
        read, made = (self.carried(some, next(iter(role.members))) for some in (stranded, role.outputs))
        anew = stranded and made and made.isdisjoint(read)  # windows along channels make others
        if len(plain) > 1 or (anew and not all(self.draft.sizes.any_in(made, k) for k in keys)):
            return None  # some are strands, others one task's channels of several strands; or what is made has none of these
        return led_parts(self.draft, role, keys, computed) if keys and self.whole_fits(role) else None

    def whole_fits(self, role: Role) -> bool:
        """Whether all channels that a node needs at once lie in one piece of one owner set."""
        for task, node in role.members.items():
            numbers = {self.draft.overlay.spaces[task, a] for a in self.draft.overlay.couplings[task].whole.get(node.name, ())}
            plans = [self.draft.spaces[n] for n in sorted(numbers) if n in self.draft.spaces]
            mine = [(p, s) for p in plans for s in p.strands if task in s.key]
            for plan in (p for p, s in mine if len(s.rows) > 1):
                self.draft.torn[plan.number] = f"{node.op} {node.name!r} needs all channels of each task alone"
            if len({s.key for _, s in mine}) > 1:
                unlike = any(len(set(p.sizes.values())) > 1 for p in plans)
                why = "the nets differ in how many they have" if unlike else "not all are shared alike"
                why = f"{node.op} {node.name!r} needs all channels at once, and {why}"
                self.draft.apart |= dict.fromkeys(role.outputs, why)
                return False
        return True

    def place_plain(self, role: Role, key: Owners, owners: Owners, read: Mapping[str, Piece | None], alone: bool,
                    written: tuple[Owners, ...]) -> None:
        """Place a node without weights; it writes the strands of what it reads, or `written` where params alone have any."""
        task = next(t for t in self.draft.overlay.tasks if t in owners and t in role.members)
        sources = [p for p in read.values() if p is not None]
        keys = self.keys_of(role, task, written, sources)
        inputs: list[str | None] = [None] * len(role.inputs)
        for k, laid in enumerate(role.inputs):
            if laid is not None and laid in read:
                piece = read[laid]
                inputs[k] = piece.name if piece is not None else None
            elif laid is not None:
                inputs[k] = self.draft.take(laid, keys, owners, alone)
        if role.op == "Concat":
            inputs = [v for v in inputs if v is not None]
        else:
            inputs = [inputs[k] for k in sorted(range(len(inputs)), key=lambda k: role.order[task][k])]
        own = {o: keys if self.draft.is_stranded(o) else () for o in role.outputs}
        full = [o for o in role.outputs if not self.draft.is_empty(o, own[o])]
        if not full:
            return
        outs = tuple(self.draft.put(o, key, own[o], owners, alone, self.draft.base_name(o, owners)) for o in full)
        attrs = self.attrs(role, task, tuple(self.draft.shapes.get(v) if v else None for v in inputs), outs, keys)
        base = self.draft.fresh(self.overlay_node_name(role, owners), owners, alone, set())
        self.draft.place(role.op, base, inputs, tuple(p.name for p in outs), attrs, owners, role.name)

    def keys_of(self, role: Role, task: str, written: tuple[Owners, ...], sources: list[Piece]) -> tuple[Owners, ...]:
        """The strands that a node without weights writes: of what it reads, those of its output's own spaces, and `written` of
        spaces of which it reads none; all of given channels that it makes."""
        numbers = self.carried(role.outputs, task)
        if not numbers:
            return next((p.keys for p in sources if p.keys), ())
        any_in = self.draft.sizes.any_in
        own = {k for p in sources if numbers & self.carried([p.laid], p.task) for k in p.keys if any_in(numbers, k)}
        if own:
            unread = {n for n in numbers if not any(any_in([n], k) for k in own)}
            own.update(k for k in written if any_in(unread, k))
            return tuple(sorted(own, key=lambda k: -len(k)))
        given = self.draft.are_given(numbers)
        return tuple(self.draft.out_keys(role.outputs[0], frozenset(role.members))) if given else written

    def carried(self, laid: Iterable[str], task: str) -> set[int]:
        """The channel spaces of some values."""
        return {n for v in laid for e in self.draft.overlay.exprs(v, task) for n in self.draft.sizes.carried(e)}

    def attrs(self, role: Role, task: str, inputs: tuple[Shape | None, ...], outs: tuple[Piece, ...],
              keys: tuple[Owners, ...]) -> dict[str, object]:
        """The node's attributes, with those that depend on numbers of channels made anew."""
        node = role.members[task]
        operator = find(node.op)
        attrs = dict(node.attrs)
        if operator is not None and operator.adapt is not None:
            names = self.draft.overlay.couplings[task].names.get(node.name, {})
            sizes = {n: self.draft.sizes.restrict(self.draft.overlay.expr(e, task), keys).size for n, e in names.items()}
            attrs |= operator.adapt(node, inputs, tuple(self.draft.shapes[p.name] for p in outs), sizes)
        return attrs


def lay_out(overlay: Overlay, steps: tuple[Step, ...], spaces: Mapping[int, SpacePlan]) -> Layout:
    """Build the fused net without its weights."""
    inputs = names_of(overlay.inputs)
    outputs_to_be = {output_name(t, p.name) for t in overlay.tasks for p in overlay.couplings[t].net.outputs}
    rules = _Rules(draft := Draft(overlay, spaces, value_names=outputs_to_be.difference(inputs)), steps)
    for name in inputs:
        owners, carried = frozenset(overlay.values[name]), rules.carried([name], next(iter(overlay.values[name])))
        if carried and not draft.are_given(carried):
            draft.put_cache(name, owners)
            continue
        draft.put(name, owners, tuple(dict.fromkeys(overlay.owners_of(n) for n in sorted(carried))), owners, True, name)
    for role in overlay.roles:
        rules.add(role)
    outputs = {t: tuple(draft.outputs(t)) for t in overlay.tasks}  # may place nodes
    return Layout(
        tuple(draft.placed), draft.pieces, tuple(draft.weights), tuple(draft.taken), draft.hearings, draft.shapes, outputs,
        draft.starved, draft.torn, draft.parts,
    )
