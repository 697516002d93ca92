"""Attention and RotaryEmbedding: heads of queries, keys and values, h = (g r) where r queries share one head g of keys.

    b l (g r d), b m (g d), b m (g e) -> b l (g r e)        softmax(Q K' / sqrt(d) + mask) V

Heads move as a whole, and the channels of values inside of them; positions stay where they are (Vaswani et al., 2017; Ainslie
et al., 2023; Su et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import aligned, first, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _heads(view: View) -> tuple[int, int]:
    """Heads of the queries, and of keys and values."""
    if len(first(view)) == 3:
        return int(view.attrs["q_num_heads"]), int(view.attrs["kv_num_heads"])
    assert view.inputs[1] is not None
    return first(view)[1], view.inputs[1][1]


def _attention_line(view: View) -> Line:
    queries, keys = _heads(view)
    repeated = queries != keys
    heads = "(g r)" if repeated else "g"
    sizes = {"g": keys} | ({"r": queries // keys} if repeated else {})
    past = len(view.inputs) > 4 and view.inputs[4] is not None
    total = "(p+m)" if past else "m"
    keyed = view.inputs[1] or ()
    if past:
        sizes |= {"p": (view.inputs[4] or ())[2], "m": keyed[1 if len(keyed) == 3 else 2]}
    packed = len(first(view)) == 3
    inner = "g r" if repeated else "g"
    q, k, v, y = (
        [["b", "l", f"({inner} d)"], ["b", "m", "(g d)"], ["b", "m", "(g e)"], ["b", "l", f"({inner} e)"]]
        if packed
        else [["b", heads, "l", "d"], ["b", "g", "m", "d"], ["b", "g", "m", "e"], ["b", heads, "l", "e"]]
    )
    length = abs((view.inputs[4] or ())[2]) + sizes["m"] if past else keyed[1 if packed else 2]
    scores = (first(view)[0], queries, first(view)[1 if packed else 2], length)
    values = [q, k, v]
    for position, shape in enumerate(view.inputs[3:], 3):
        if shape is not None:
            values.append(_beside(position, shape, ["b", heads, "l", total], scores))
    outputs = [y, ["b", "g", total, "d"], ["b", "g", total, "e"], ["b", heads, "l", total]][: len(view.outputs)]
    whole = frozenset({"d", "m"})
    return Line(text(values, outputs), sizes, whole=whole, pinned=frozenset({"l", "m", "p", "u"}))


def _beside(position: int, shape: Shape, terms: list[str], scores: Shape) -> list[str]:
    """Terms of the mask (which may end early), of what was cached, of the lengths."""
    if position == 3:
        if shape[-1] != scores[-1]:
            terms = [*terms[:-1], "u"]
            scores = (*scores[:-1], shape[-1])
        return aligned(shape, terms, scores)
    return {4: ["b", "g", "p", "d"], 5: ["b", "g", "p", "e"]}.get(position, ["b"])


def _split_heads(x: Any, heads: int | None) -> Any:
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], int(heads or 1), -1).transpose(1, 2)


def _bias(
    mask: Any, like: Any, offset: Any, is_causal: int, window: tuple[int, int], lengths: Any
) -> Any:
    """What is added to the scores [b, h, l, m]: -inf where a query may not look; None where all may."""
    count, total = like.shape[-2:]
    bias = None
    if mask is not None:
        bias = mask if mask.dtype != torch.bool else torch.zeros(mask.shape, dtype=like.dtype, device=like.device)
        bias = bias if mask.dtype != torch.bool else bias.masked_fill(~mask, -math.inf)
        bias = torch.nn.functional.pad(bias, (0, total - mask.shape[-1]), value=-math.inf)
    at = torch.arange(total, device=like.device)
    ahead = at - torch.arange(count, device=like.device)[:, None] - offset
    hidden = torch.zeros_like(ahead, dtype=torch.bool)
    if is_causal:
        hidden = hidden | (ahead > 0)
    if window[0] >= 0:
        hidden = hidden | (-ahead > window[0])
    if window[1] >= 0:
        hidden = hidden | (ahead > window[1])
    if lengths is not None:
        hidden = hidden | (at >= lengths.reshape(-1, 1, 1, 1))
    elif not is_causal and max(window) < 0:
        return bias
    hidden_bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill(hidden, -math.inf)
    return hidden_bias if bias is None else bias + hidden_bias


def _weights(scores: Any, bias: Any) -> Any:
    """Softmax; a query that may look nowhere gets zeros."""
    if bias is None:
        return torch.softmax(scores, -1)
    blind = (bias.amax(-1, keepdim=True) == -math.inf).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.where(blind, torch.zeros_like(scores), scores + bias), -1).masked_fill(blind, 0.0)


def _attention(
    q: Any, k: Any, v: Any, mask: Any = None, past_key: Any = None, past_value: Any = None, lengths: Any = None, *,
    scale: float | None = None, is_causal: int = 0, q_num_heads: int | None = None, kv_num_heads: int | None = None,
    softcap: float = 0.0, qk_matmul_output_mode: int = 0, left_window_size: int = -1, right_window_size: int = -1, **_: Any,
) -> tuple[Any, ...]:
    packed = q.ndim == 3
    q, k, v = _split_heads(q, q_num_heads), _split_heads(k, kv_num_heads), _split_heads(v, kv_num_heads)
    offset: Any = 0
    if past_key is not None:
        offset = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    elif lengths is not None:
        offset = lengths.reshape(-1, 1, 1, 1) - q.shape[2]
    times = q.shape[1] // k.shape[1]
    keys, values = (a if times == 1 else a.repeat_interleave(times, 1) for a in (k, v))
    raw = q @ keys.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    bias = _bias(mask, capped, offset, is_causal, (left_window_size, right_window_size), lengths)
    weights = _weights(capped, bias)
    y = weights @ values
    y = y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1) if packed else y
    shown = (raw, capped, capped if bias is None else capped + bias, weights)[qk_matmul_output_mode]
    return y, k, v, shown


def _adapt_heads(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Heads that are left, where the node counts them."""
    counts = {"q_num_heads": sizes["g"] * sizes.get("r", 1), "kv_num_heads": sizes["g"]}
    return {name: count for name, count in counts.items() if node.attrs.get(name)}


def _rotary_line(view: View) -> Line:
    x = ["b", "h", "l", "d"] if len(first(view)) == 4 else ["b", "l", "(h d)"]
    chosen = len(view.inputs) > 3 and view.inputs[3] is not None
    table = ["p", "k"] if chosen else ["b", "l", "k"]
    heads = {} if len(first(view)) == 4 else {"h": int(view.attrs["num_heads"])}
    values = [x, table, table, *([["b", "l"]] if chosen else [])]
    return Line(text(values, [x]), heads, pinned=frozenset({"d", "k", "p"}))


def _rotary(
    x: Any, cosine: Any, sine: Any, positions: Any = None, *, interleaved: int = 0, num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Any:
    """Pairs of channels turned by an angle that grows with the position."""
    packed = x.ndim == 3
    y = _split_heads(x, num_heads)
    if positions is not None:
        cosine, sine = cosine[positions.to(torch.int64)], sine[positions.to(torch.int64)]
    cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    turned, rest = y.split([rotary_embedding_dim or y.shape[-1], y.shape[-1] - (rotary_embedding_dim or y.shape[-1])], -1)
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (cosine * a - sine * b, sine * a + cosine * b)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2).reshape(x.shape) if packed else y


register(
    Operator(
        "Attention", _attention_line, _attention, Symmetry.PERMUTATION, adapt=_adapt_heads,
        derived=frozenset({"q_num_heads", "kv_num_heads"}),
    )
)
register(
    Operator(
        "RotaryEmbedding", _rotary_line, _rotary, Symmetry.PERMUTATION,
        adapt=lambda node, inputs, outputs, sizes: {"num_heads": sizes["h"]} if node.attrs.get("num_heads") else {},
        derived=frozenset({"num_heads"}),
    )
)
