"""The sheet on which a layout is drawn: names, pieces of values, params, and values joined from pieces."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnxzip.analysis.layout import Hearing, Part, Piece, Placed, Sizes, Taken, Weights
from onnxzip.analysis.roles import Overlay, unique
from onnxzip.analysis.spaces import Expr
from onnxzip.analysis.strands import Owners, SpacePlan
from onnxzip.net import Node, Shape


@dataclass
class Draft:
    """A layout in the making."""

    overlay: Overlay
    spaces: Mapping[int, SpacePlan]
    sizes: Sizes = field(init=False)
    placed: list[Placed] = field(default_factory=list)
    pieces: dict[str, dict[Owners, Piece]] = field(default_factory=dict)
    weights: list[Weights] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    hearings: dict[str, Hearing] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    starved: dict[tuple[int, Owners], str] = field(default_factory=dict)
    apart: dict[str, str] = field(default_factory=dict)  # laid-over value -> why each task has its own
    torn: dict[int, str] = field(default_factory=dict)
    joined: dict[tuple[str, ...], str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    cut: dict[str, tuple[str, ...]] = field(default_factory=dict)  # value -> its parts
    value_names: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sizes = Sizes(self.spaces)

    # names ------------------------------------------------------------------------------------------------------------

    def fresh(self, base: str, owners: Owners, alone: bool, taken: set[str]) -> str:
        """A name for the piece of something: its own where it is the only one or shared by most, else with its owners."""
        label = base if alone else f"{'_'.join(sorted(owners, key=self.overlay.tasks.index))}_{base}"
        return unique(label, "fused", taken)

    # values -----------------------------------------------------------------------------------------------------------

    def is_stranded(self, laid: str) -> bool:
        task = next(iter(self.overlay.values[laid]))
        return any(self.sizes.carried(e) for e in self.overlay.exprs(laid, task))

    def are_given(self, numbers: Collection[int]) -> bool:
        """Whether no weights make the channels of any of some spaces."""
        return all(self.spaces[n].given for n in numbers)

    def stranded_axis(self, laid: str) -> int:
        """The axis of channels; beside those that a window runs along, the one channel that it makes is none."""
        task = next(iter(self.overlay.values[laid]))
        axes = {d: e.size for d, e in enumerate(self.overlay.exprs(laid, task)) if self.sizes.carried(e)}
        return max(axes, key=lambda d: axes[d] != 1)

    def is_even(self, laid: str) -> bool:
        """Whether the channels of all axes of a value are shared by the same tasks; those of one axis need not be."""
        tasks = frozenset(self.overlay.values[laid])
        axes = [self.sizes.carried(e) for e in self.overlay.exprs(laid, next(iter(tasks)))]
        keys = {frozenset(s.key & tasks for s in self.spaces[n].strands) for numbers in axes for n in numbers}
        return sum(map(bool, axes)) < 2 or len(keys) < 2

    def is_empty(self, laid: str, keys: tuple[Owners, ...]) -> bool:
        """Whether a value that has channels has none of them in some strands."""
        task = next(iter(self.overlay.values[laid]))
        return any(self.sizes.restrict(e, keys).size == 0 for e in self.sizes.leading(self.overlay.exprs(laid, task)))

    def out_keys(self, laid: str, members: Owners) -> list[Owners]:
        """Keys of the strands that a node with weights produces."""
        task = next(iter(t for t in self.overlay.tasks if t in members))
        carried = [n for e in self.overlay.exprs(laid, task) for n in self.sizes.carried(e)]
        keys = dict.fromkeys(s.key for n in carried for s in self.spaces[n].strands if s.key & members)
        return list(keys) if carried else [frozenset([t]) for t in self.overlay.tasks if t in members]

    def put(self, laid: str, key: Owners, keys: tuple[Owners, ...], owners: Owners, alone: bool, base: str) -> Piece:
        """Announce a piece of a value."""
        task = next(t for t in self.overlay.tasks if t in owners)
        piece = Piece(self.fresh(base, owners, alone, self.value_names), laid, task, keys, owners)
        self.shapes[piece.name] = self.sizes.shape(self.overlay.exprs(laid, task), keys)
        self.pieces.setdefault(laid, {})[key] = piece
        return piece

    def put_cache(self, name: str, members: Owners) -> None:
        """Announce an input whose channels weights make, too: in their order, so that for each strand it is all of it."""
        for key in self.out_keys(name, members):
            owners = key & members
            task = next(t for t in self.overlay.tasks if t in owners)
            self.pieces.setdefault(name, {})[key] = Piece(name, name, task, (key,), owners)
        self.value_names.add(name)
        self.shapes[name] = self.overlay.couplings[task].net.shapes[self.overlay.values[name][task]]

    def place(self, op: str, base: str, inputs: list[str | None], outputs: tuple[str, ...], attrs: Mapping[str, object],
              owners: Owners, role: str | None) -> None:
        name = unique(base, "fused", self.node_names)
        self.placed.append(Placed(Node(name, op, tuple(inputs), outputs, attrs), owners, role))

    def base_name(self, laid: str, owners: Owners) -> str:
        """The name that the first owner's net gives to a laid-over value or param."""
        by_task = self.overlay.values[laid]
        return by_task[next(t for t in self.overlay.tasks if t in owners and t in by_task)]

    def readable(self, laid: str, key: Owners, owners: Owners) -> Piece | None:
        """The piece that a node running for a key reads."""
        pieces = self.pieces[laid]
        if key in pieces:
            return pieces[key]
        if self.is_stranded(laid):
            return None
        return next((p for k, p in pieces.items() if owners <= k), None)

    def outputs(self, task: str) -> list[tuple[str, Piece]]:
        """The pieces that a task's outputs are; one that is made of several (channels of the input beside) is joined."""
        found = []
        laid_of = {v[task]: laid for laid, v in self.overlay.values.items() if task in v}
        for port in self.overlay.couplings[task].net.outputs:
            laid = laid_of[port.name]
            joined = self.joined_for(laid, task) if self.is_stranded(laid) else None
            mine = (p for k, p in self.pieces[laid].items() if task in p.owners or task in k)
            found.append((port.name, joined if joined is not None else next(mine)))
        return found

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
            if len(present) == 1:
                by_part[present[0]].append(piece.name)
                continue
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

    def take(self, laid: str, keys: tuple[Owners, ...], owners: Owners, alone: bool, led: Owners = frozenset()) -> str:
        """Announce a param that is taken over from the originals: from those who lead, where it is not the same in all."""
        task = next(t for t in self.overlay.tasks if t in owners)
        wanted, everyone = keys if self.is_stranded(laid) else (), frozenset(self.overlay.values[laid])
        one = not wanted and self.overlay.is_one(laid, everyone)
        owners, led = (everyone, frozenset[str]()) if one else (owners, led)
        for known in self.taken:
            same = (known.laid, known.keys, known.heard, known.led) == (laid, wanted, (), led)
            if same and (owners <= known.owners if wanted else owners == known.owners):
                return known.name
        name = self.fresh(self.base_name(laid, led or owners), led or owners, one or (alone and not led), self.value_names)
        self.shapes[name] = self.sizes.shape(self.overlay.exprs(laid, task), wanted)
        self.taken.append(Taken(name, laid, wanted, owners, led=led))
        return name


def _splits_in_front(expr: Expr, sizes: Sizes) -> bool:
    """Whether pieces of an axis, put one after the other, lie in the axis' own order: nothing stands before what is split."""
    if expr.kind == "atom":
        return True
    if expr.kind != "product" or any(sizes.carried(p) for p in expr.parts[1:]):
        return False
    return _splits_in_front(expr.parts[0], sizes)
