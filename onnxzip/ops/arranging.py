"""Operators that put whole channels in another place: Transpose, Concat, Split, Expand, Tile, DepthToSpace, SpaceToDepth.

    n c h w -> n h w c                        Transpose
    n p0 *s, n p1 *s -> n (p0+p1) *s          Concat
    n (p0+p1) *s -> n p0 *s, n p1 *s          Split
    n c -> n (r c)                            Tile
    n (x y c) h w -> n c (h x) (w y)          DepthToSpace
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import aligned, first, ints, names, present, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _order(perm: Any, rank: int) -> tuple[int, ...]:
    return ints(perm) or tuple(reversed(range(rank)))


def _transpose_line(view: View) -> Line:
    axes = names(len(first(view)))
    return Line(text([axes], [[axes[k] for k in _order(view.attrs.get("perm"), len(axes))]]))


def _parts(view: View, shapes: list[Shape], whole: Shape) -> tuple[list[list[str]], list[str], dict[str, int]]:
    """Terms of the parts and of their concatenation along the node's axis; a part of no channels has none to couple."""
    axis = int(view.attrs["axis"]) % len(whole)

    def put(term: str) -> list[str]:
        return [term if k == axis else a for k, a in enumerate(names(len(whole)))]

    full = [k for k, shape in enumerate(shapes) if shape[axis] != 0]
    joined = "+".join(f"p{k}" for k in full)
    sizes = {f"p{k}": shapes[k][axis] for k in full}
    return [put(f"p{k}") for k in range(len(shapes))], put(f"({joined})" if len(full) > 1 else joined), sizes


def _concat_line(view: View) -> Line:
    parts, whole, sizes = _parts(view, present(view), view.outputs[0])
    return Line(text(parts, [whole]), sizes)


def _split_line(view: View) -> Line:
    parts, whole, sizes = _parts(view, list(view.outputs), first(view))
    return Line(text([whole], parts), sizes)


def _split(x: Any, *, axis: int, split: Any = None, num_outputs: int | None = None) -> Any:
    """Equal parts, the last one smaller where they do not come out even, unless their sizes are given."""
    if split is None:
        count = num_outputs or 1
        return torch.split(x, -(-x.shape[axis] // count), axis)
    return torch.split(x, list(ints(split)), axis)


def _adapt_split(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    return {"split": tuple(shape[int(node.attrs["axis"])] for shape in outputs)}


def _expand_line(view: View) -> Line:
    """A stretched axis is `1` before and has a new name behind: its channels are copies of each other."""
    full = view.outputs[0]
    axes = names(len(full))
    bound = Symmetry.LINEAR if first(view) == full else Symmetry.PERMUTATION
    return Line(text([aligned(first(view), axes, full)], [axes]), symmetry=bound)


def _expand(x: Any, *, shape: Any) -> Any:
    """To a shape of positive sizes; whoever runs a net puts the batch into it."""
    return torch.broadcast_to(x, torch.broadcast_shapes(x.shape, tuple(shape)))


def _adapt_expand(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """The output's shape, but 1 where the input has the batch already."""
    assert inputs[0] is not None
    own = (1,) * (len(outputs[0]) - len(inputs[0])) + inputs[0]
    return {"shape": tuple(1 if d < 0 and d == mine else d for d, mine in zip(outputs[0], own, strict=True))}


def _tile_line(view: View) -> Line:
    """Every copy has all channels, in their order; of an axis of one there is nothing but copies."""
    shape, repeats = first(view), ints(view.attrs["repeats"])
    terms = [
        a if count == 1 else f"r{k}" if shape[k] == 1 else f"(r{k} {a})"
        for k, (a, count) in enumerate(zip(names(len(shape)), repeats, strict=True))
    ]
    before = ["1" if shape[k] == 1 and count != 1 else f"a{k}" for k, count in enumerate(repeats)]
    sizes = {f"r{k}": count for k, count in enumerate(repeats) if count != 1 and shape[k] != 1}
    return Line(text([before], [terms]), sizes)


def _adapt_tile(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    assert inputs[0] is not None
    return {"repeats": tuple(after // before for before, after in zip(inputs[0], outputs[0], strict=True))}


def _depth_line(view: View) -> Line:
    block = int(view.attrs["blocksize"])
    depth = "(c x y)" if view.attrs["mode"] == "CRD" else "(x y c)"
    return Line(f"n {depth} h w -> n c (h x) (w y)", {"x": block, "y": block}, pinned=frozenset({"x", "y"}))


def _depth_to_space(x: Any, *, blocksize: int, mode: str) -> Any:
    n, c, h, w = x.shape
    b = blocksize
    if mode == "CRD":
        return x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * b, w * b)
    return x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)


def _space_line(view: View) -> Line:
    block = int(view.attrs["blocksize"])
    depth = "(c x y)" if view.attrs.get("mode") == "CRD" else "(x y c)"
    return Line(f"n c (h x) (w y) -> n {depth} h w", {"x": block, "y": block}, pinned=frozenset({"x", "y"}))


def _space_to_depth(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    n, c, h, w = x.shape
    b = blocksize
    order = (0, 1, 3, 5, 2, 4) if mode == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, -1, h // b, w // b)


register(
    Operator("Transpose", _transpose_line, lambda x, *, perm=None: x.permute(_order(perm, x.ndim)), Symmetry.LINEAR)
)
register(Operator("Concat", _concat_line, lambda *values, axis: torch.cat(values, axis), Symmetry.LINEAR))
register(
    Operator(
        "Split", _split_line, _split, Symmetry.LINEAR, constants={1: "split"}, adapt=_adapt_split,
        derived=frozenset({"split", "num_outputs"}),
    )
)
register(
    Operator(
        "Expand", _expand_line, _expand, Symmetry.LINEAR, constants={1: "shape"}, adapt=_adapt_expand,
        derived=frozenset({"shape"}),
    )
)
register(
    Operator(
        "Tile", _tile_line, lambda x, *, repeats: x.repeat(ints(repeats)), Symmetry.LINEAR, constants={1: "repeats"},
        adapt=_adapt_tile, derived=frozenset({"repeats"}),
    )
)
register(Operator("DepthToSpace", _depth_line, _depth_to_space, Symmetry.LINEAR))
register(Operator("SpaceToDepth", _space_line, _space_to_depth, Symmetry.LINEAR))
