"""Operators that read or write entries by computed position: GatherElements, GatherND, the scatters, OneHot.

    n i1 *s, n o1 *s -> n o1 *s        GatherElements on axis 1: the order along it has a meaning
    i0 c, n 1 -> n c                   GatherND with indices of length one
"""

from __future__ import annotations

from typing import Any

from onnxzip.net import Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import apart_along, first, names, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _indices(view: View) -> Shape:
    assert view.inputs[1] is not None
    return view.inputs[1]


def _elements_line(view: View) -> Line:
    """Axes that both have in full length go together; the indices may be shorter along any other axis."""
    shape, taken = first(view), _indices(view)
    axis = int(view.attrs["axis"]) % len(shape)
    apart = [k for k, (a, b) in enumerate(zip(shape, taken, strict=True)) if k == axis or a != b]
    left, right, pinned = apart_along(apart, len(shape))
    return Line(text([left, right], [right]), pinned=pinned, symmetry=Symmetry.PERMUTATION)


def _positive(indices: Any, size: int) -> Any:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _gather_elements(x: Any, indices: Any, *, axis: int) -> Any:
    return torch.gather(x, axis % x.ndim, _positive(indices, x.shape[axis]))


def _scatter_line(view: View) -> Line:
    """As in GatherElements, for data, indices and updates."""
    shape, taken = first(view), _indices(view)
    axis = int(view.attrs["axis"]) % len(shape)
    apart = [k for k, (a, b) in enumerate(zip(shape, taken, strict=True)) if k == axis or a != b]
    data, written, pinned = apart_along(apart, len(shape))
    return Line(text([data, written, written], [data]), pinned=pinned, symmetry=Symmetry.PERMUTATION)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(x: Any, indices: Any, updates: Any, *, axis: int, reduction: str = "none") -> Any:
    at = _positive(indices, x.shape[axis])
    if reduction == "none":
        return torch.scatter(x, axis, at, updates)
    return torch.scatter_reduce(x, axis, at, updates, _REDUCTIONS[reduction], include_self=True)


def _indexed(x: Shape, indices: Shape, batch: int) -> tuple[list[str], list[str], list[str], frozenset[str]]:
    """Terms of the data, of the indices, of what they name; pinned are the indexed axes and the index itself."""
    depth, common = indices[-1], names(batch)
    addressed = [f"i{k}" for k in range(batch, batch + depth)]
    rest = names(len(x))[batch + depth :]
    chosen = names(len(indices) - 1, "q")[batch:]
    data = [*common, *addressed, *rest]
    return data, [*common, *chosen, "d"], [*common, *chosen, *rest], frozenset({*addressed, "d"})


def _gather_nd_line(view: View) -> Line:
    data, indices, out, pinned = _indexed(first(view), _indices(view), int(view.attrs.get("batch_dims", 0)))
    return Line(text([data, indices], [out]), pinned=pinned, symmetry=Symmetry.PERMUTATION)


def _flat(indices: Any, sizes: tuple[int, ...]) -> Any:
    """Indices of several axes as one number each, row-major."""
    at = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for k, size in enumerate(sizes):
        at = at * size + _positive(indices[..., k], size)
    return at


def _gather_nd(x: Any, indices: Any, *, batch_dims: int) -> Any:
    depth, batch = indices.shape[-1], x.shape[:batch_dims]
    at = _flat(indices, x.shape[batch_dims : batch_dims + depth])
    rest = x.shape[batch_dims + depth :]
    rows = x.reshape(batch.numel(), -1, rest.numel())
    chosen = at.reshape(batch.numel(), -1, 1).expand(-1, -1, rest.numel())
    return torch.gather(rows, 1, chosen).reshape((*batch, *at.shape[batch_dims:], *rest))


def _scatter_nd_line(view: View) -> Line:
    data, indices, updates, pinned = _indexed(first(view), _indices(view), 0)
    line = text([data, indices, updates], [data])
    return Line(line, whole=frozenset(indices[:-1]), pinned=pinned, symmetry=Symmetry.PERMUTATION)


def _scatter_nd(x: Any, indices: Any, updates: Any, *, reduction: str = "none") -> Any:
    depth = indices.shape[-1]
    rest = x.shape[depth:]
    at = _flat(indices, x.shape[:depth]).reshape(-1, 1).expand(-1, rest.numel())
    rows, new = x.reshape(-1, rest.numel()), updates.reshape(-1, rest.numel())
    return _scatter_elements(rows, at, new, axis=0, reduction=reduction).reshape(x.shape)


def _cache_line(view: View) -> Line:
    """Updates replace a run along the node's axis, from an index of each sample on."""
    shape = first(view)
    axis = int(view.attrs["axis"]) % len(shape)
    data, written = names(len(shape)), names(len(shape))
    data[axis], written[axis] = f"i{axis}", f"o{axis}"
    starts = [["a0"]] if len(view.inputs) > 2 and view.inputs[2] is not None else []
    pinned = frozenset({data[axis], written[axis]})
    return Line(text([data, written, *starts], [data]), pinned=pinned, symmetry=Symmetry.PERMUTATION)


def _tensor_scatter(x: Any, updates: Any, starts: Any = None, *, axis: int, mode: str) -> Any:
    axis %= x.ndim
    at = torch.arange(updates.shape[axis], device=x.device)
    at = at[None, :] + (0 if starts is None else starts.to(torch.int64)[:, None])
    at = at % x.shape[axis] if mode == "circular" else at
    shape = [-1 if k == 0 else updates.shape[axis] if k == axis else 1 for k in range(x.ndim)]
    return torch.scatter(x, axis, at.reshape(shape).expand_as(updates), updates)


def _one_hot_line(view: View) -> Line:
    """The new axis counts: it is pinned, and the values' two entries, too."""
    axes = names(len(first(view)))
    axis = int(view.attrs["axis"]) % (len(axes) + 1)
    return Line(text([axes, ["v"]], [[*axes[:axis], "o", *axes[axis:]]]), pinned=frozenset({"o", "v"}))


def _one_hot(indices: Any, _: Any, values: Any, *, depth: Any, axis: int) -> Any:
    """values[1] where the index points to, values[0] elsewhere; indices beyond the depth point nowhere."""
    count = int(depth[0] if isinstance(depth, tuple) else depth)
    at = torch.where(indices < 0, indices + count, indices).to(torch.int64)
    axis %= indices.ndim + 1
    counted = torch.arange(count, device=indices.device).reshape([-1 if k == axis else 1 for k in range(indices.ndim + 1)])
    return torch.where(at.unsqueeze(axis) == counted, values[1], values[0])


register(Operator("GatherElements", _elements_line, _gather_elements, Symmetry.PERMUTATION))
register(Operator("GatherND", _gather_nd_line, _gather_nd, Symmetry.PERMUTATION))
register(Operator("ScatterElements", _scatter_line, _scatter_elements, Symmetry.PERMUTATION))
register(Operator("ScatterND", _scatter_nd_line, _scatter_nd, Symmetry.PERMUTATION))
register(Operator("TensorScatter", _cache_line, _tensor_scatter, Symmetry.PERMUTATION))
register(Operator("OneHot", _one_hot_line, _one_hot, Symmetry.PERMUTATION, constants={1: "depth"}))
