"""LSTM, GRU, RNN: x over time, per direction d weights of g stacked gates, and the hidden units h that feed back.

    t n i, d (g h) i, d (g h) h, d (k h), n, d n h, d n h, d (q h) -> t d n h, d n h, d n h        LSTM, layout 0

Hidden units move together in gates, recurrence and outputs, and are needed whole, but for those that `may_part`. Formulas:
the operators' text in ONNX, after Hochreiter and Schmidhuber (1997), Cho et al. (2014), Elman (1990).

Loading takes what the inputs have to say out of a node, as a layer of its own: what is left has no weights W, its x is that
layer's output, the gates, and its bias that of the recurrence alone. ONNX has no such node, and exporting joins both again.

    t n (g h), d (g h) h, d (g h), n, d n h, d n h, d (q h) -> t d n h, d n h, d n h               LSTM without W, d = 1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

from onnxzip.net import Node, Shape
from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import floats
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register

State = tuple[Any, ...]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {5: 1, 6: 2}  # what a node begins with, among its inputs -> what that ends as, among its outputs
_LSTM_FUNCTIONS, _GRU_FUNCTIONS = ("Sigmoid", "Tanh", "Tanh"), ("Sigmoid", "Tanh")
# activation -> what alpha and beta are where a node gives none; a missing entry means that it takes none
_ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
_BETA = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}


def takes_gates(op: str, inputs: Sequence[str | None]) -> bool:
    """Whether a recurrent node has no weights for its inputs: what it reads are its gates."""
    return op in GATES and inputs[1] is None


def may_part(op: str, inputs: Sequence[object], outputs: Sequence[str]) -> bool:
    """Whether hidden units of a node may run apart from others that do not read them, and that they do read: what those say
    comes into the gates as a sum, which the last gate of a GRU resets. Starts and lengths would have to be dealt out, too."""
    starts = any(v is not None for v in inputs[4:7])
    return op in ("LSTM", "RNN") and inputs[1] is None and not starts and bool(outputs[0])


def _line(view: View) -> Line:
    swapped = bool(view.attrs.get("layout"))
    x, state = ("n t i", "n d h") if swapped else ("t n i", "d n h")
    patterns = [x, "d (g h) i", "d (g h) h", "d (k h)", "n", state, state, "d (q h)"]
    if view.inputs[1] is None:
        patterns[0], patterns[3] = x.replace("i", "(g h)"), "d (g h)"
    read = [p for p, shape in zip(patterns, view.inputs, strict=False) if shape is not None]
    written = ["n t d h" if swapped else "t d n h", state, state][: len(view.outputs)]
    gates = GATES[view.node.op]
    if gates == 1:
        read = [p.replace("(g h)", "h") for p in read]
    sizes = {"g": gates, "k": 2 * gates, "q": 3}
    whole = "i" if may_part(view.node.op, view.inputs, view.node.outputs) else "hi"
    return Line(
        f"{', '.join(read)} -> {', '.join(written)}", {n: s for n, s in sizes.items() if any(f"({n} " in p for p in read)},
        whole=frozenset(whole), pinned=frozenset({"t", "d", *sizes}), symmetry=Symmetry.PERMUTATION,
    )


def _activation(name: str, alpha: float, beta: float) -> Callable[[Any], Any]:
    plain = torch.nn.functional
    known: dict[str, Callable[[Any], Any]] = {
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softsign": plain.softsign,
        "softplus": plain.softplus,
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: plain.leaky_relu(x, alpha),
        "thresholdedrelu": lambda x: torch.where(x > alpha, x, torch.zeros_like(x)),
        "scaledtanh": lambda x: alpha * torch.tanh(beta * x),
        "hardsigmoid": lambda x: torch.clamp(alpha * x + beta, 0, 1),
        "elu": lambda x: plain.elu(x, alpha),
    }
    return known[name.lower()]


def _activations(
    given: Any, alphas: Any, betas: Any, default: tuple[str, ...], directions: int
) -> list[list[Callable[[Any], Any]]]:
    """Per direction its functions; alphas and betas are dealt to those that take one, in order."""
    flat = tuple(given) if given else default * directions
    a, b = list(floats(alphas)), list(floats(betas))

    def next_of(left: list[float], defaults: dict[str, float], name: str) -> float:
        return left.pop(0) if name in defaults and left else defaults.get(name, 0.0)

    made = [_activation(n, next_of(a, _ALPHA, n), next_of(b, _BETA, n)) for n in flat]
    count = len(default)
    return [made[k * count : (k + 1) * count] for k in range(directions)]


def _are_usual(given: Any, default: tuple[str, ...]) -> bool:
    """Whether a node's functions are those that it has where it names none."""
    return all(name == usual for name, usual in zip(given or (), cycle(default), strict=False))


def _clipped(x: Any, clip: float | None) -> Any:
    return x if not clip else x.clamp(-clip, clip)


def _lstm_step(
    x: Any, state: State, recurrence: Any, peepholes: Any, f: Any, clip: float | None, input_forget: int
) -> State:
    h, c = state
    gates = x + h @ recurrence.T
    i, o, forget, new = gates.chunk(4, -1)
    pi, po, pf = (0.0, 0.0, 0.0) if peepholes is None else peepholes.chunk(3, -1)
    i = f[0](_clipped(i + pi * c, clip))
    forget = 1 - i if input_forget else f[0](_clipped(forget + pf * c, clip))
    c = forget * c + i * f[1](_clipped(new, clip))
    return f[0](_clipped(o + po * c, clip)) * f[2](c), c


def _gru_step(x: Any, state: State, recurrence: Any, bias: Any, f: Any, clip: float | None, before_reset: int) -> State:
    (h,) = state
    xz, xr, xh = x.chunk(3, -1)
    rz, rr, rh = recurrence.chunk(3, 0)
    bz, br, bh = bias.chunk(3, -1)
    z, r = f[0](_clipped(xz + h @ rz.T + bz, clip)), f[0](_clipped(xr + h @ rr.T + br, clip))
    new = r * (h @ rh.T + bh) if before_reset else (r * h) @ rh.T + bh
    new = f[1](_clipped(xh + new, clip))
    return ((1 - z) * new + z * h,)


def _rnn_step(x: Any, state: State, recurrence: Any, f: Any, clip: float | None) -> State:
    return (f[0](_clipped(x + state[0] @ recurrence.T, clip)),)


def _turned(x: Any, lengths: Any) -> Any:
    """Every sample's steps in the opposite order, those behind its length where they are: x [t, n, ...]."""
    if lengths is None:
        return x.flip(0)
    at = torch.arange(x.shape[0], device=x.device)[:, None]
    source = torch.where(at < lengths[None, :], lengths[None, :] - 1 - at, at)
    return torch.gather(x, 0, source.reshape(*source.shape, *(1,) * (x.ndim - 2)).expand_as(x))


def _walk(x: Any, state: State, lengths: Any, step: Callable[[Any, State], State]) -> tuple[Any, State]:
    """All outputs [t, n, h] and the last state; behind a sample's length the outputs are 0 and its state rests."""
    found = []
    for t, now in enumerate(x):
        new = step(now, state)
        if lengths is None:
            state = new
            found.append(new[0])
        else:
            going = (t < lengths)[:, None]
            state = tuple(torch.where(going, a, b) for a, b in zip(new, state, strict=True))
            found.append(torch.where(going, new[0], torch.zeros_like(new[0])))
    return torch.stack(found), state


def _native(op: str, x: Any, weights: list[Any], state: State) -> tuple[Any, State]:
    """As `_walk`, all at once by torch's own kernels, which want the gates in another order.

    Args:
        x: what the inputs are; weights: W, R and the biases of both, rows gate by gate as in ONNX.
    """
    order = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}[op]
    weights = [torch.cat([v.chunk(len(order), 0)[k] for k in order]) for v in weights]
    kernel = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN": torch.rnn_tanh}[op]
    starts = [s[None] for s in state]
    y, *ends = kernel(x, starts if op == "LSTM" else starts[0], weights, True, 1, 0.0, False, False, False)
    return y, tuple(s[0] for s in ends)


def _run(
    op: str, plain: bool, steps: list[Callable[[Any, State], State]], x: Any, weights: tuple[Any, ...], starts: State,
    lengths: Any, direction: str, layout: int,
) -> tuple[Any, ...]:
    """All directions of a node: outputs over time, and the last states.

    Args:
        plain: whether it does what torch's own kernel does.
        steps: per direction, (inputs' part of the gates, state) -> next state.
        weights: W [directions, gates * hidden, inputs], None where x is that part already; R; the bias of the inputs
            [directions, gates * hidden]; that of the recurrence.
        starts: states of all directions, [directions, batch, hidden].
    """
    x = x.transpose(0, 1) if layout else x
    lengths = None if lengths is None else lengths.to(torch.int64)
    w, r, bias, own = weights
    outputs, states = [], []
    for d, step in enumerate(steps):
        turned = direction == "reverse" or d == 1
        x_d, first = _turned(x, lengths) if turned else x, tuple(s[d] for s in starts)
        if plain and w is not None and lengths is None:
            y, last = _native(op, x_d, [w[d], r[d], bias[d], own[d]], first)
        else:
            inner = bias[d] if op == "GRU" else bias[d] + own[d]
            y, last = _walk((x_d if w is None else x_d @ w[d].T) + inner, first, lengths, step)
        outputs.append(_turned(y, lengths) if turned else y)
        states.append(last)
    ends = [torch.stack(s, 1 if layout else 0) for s in zip(*states, strict=True)]
    y = torch.stack(outputs, 1)
    return y.permute(2, 0, 1, 3) if layout else y, *ends


def _starts(given: State, x: Any, r: Any, layout: int) -> State:
    """States before the first step, zero where they are omitted."""
    zero = x.new_zeros(r.shape[0], x.shape[0 if layout else 1], r.shape[-1])
    return tuple(zero if s is None else s.transpose(0, 1) if layout else s for s in given)


def _biases(b: Any, w: Any, r: Any) -> tuple[Any, Any]:
    """Those of the inputs, and those of the recurrence."""
    none = r.new_zeros(r.shape[:2])
    return (none, none) if b is None else (none, b) if w is None else b.chunk(2, -1)


def _lstm(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, c: Any = None, p: Any = None, *,
    direction: str, layout: int = 0, clip: float | None = None, input_forget: int = 0, activations: Any = None,
    activation_alpha: Any = None, activation_beta: Any = None, **_: Any,
) -> tuple[Any, ...]:
    f = _activations(activations, activation_alpha, activation_beta, _LSTM_FUNCTIONS, r.shape[0])
    steps: list[Callable[[Any, State], State]] = [
        partial(
            _lstm_step, recurrence=r[d], peepholes=None if p is None else p[d], f=f[d], clip=clip, input_forget=input_forget
        )
        for d in range(r.shape[0])
    ]
    plain = _are_usual(activations, _LSTM_FUNCTIONS) and not clip and p is None and not input_forget
    weights = (w, r, *_biases(b, w, r))
    return _run("LSTM", plain, steps, x, weights, _starts((h, c), x, r, layout), lengths, direction, layout)


def _gru(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, direction: str, layout: int = 0,
    clip: float | None = None, linear_before_reset: int = 0, activations: Any = None, activation_alpha: Any = None,
    activation_beta: Any = None, **_: Any,
) -> tuple[Any, ...]:
    f = _activations(activations, activation_alpha, activation_beta, _GRU_FUNCTIONS, r.shape[0])
    inner, recurrent = _biases(b, w, r)
    steps: list[Callable[[Any, State], State]] = [
        partial(_gru_step, recurrence=r[d], bias=recurrent[d], f=f[d], clip=clip, before_reset=linear_before_reset)
        for d in range(r.shape[0])
    ]
    plain = _are_usual(activations, _GRU_FUNCTIONS) and not clip and bool(linear_before_reset)
    return _run("GRU", plain, steps, x, (w, r, inner, recurrent), _starts((h,), x, r, layout), lengths, direction, layout)


def _rnn(
    x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h: Any = None, *, direction: str, layout: int = 0,
    clip: float | None = None, activations: Any = None, activation_alpha: Any = None, activation_beta: Any = None, **_: Any,
) -> tuple[Any, ...]:
    f = _activations(activations, activation_alpha, activation_beta, ("Tanh",), r.shape[0])
    steps: list[Callable[[Any, State], State]] = [
        partial(_rnn_step, recurrence=r[d], f=f[d], clip=clip) for d in range(r.shape[0])
    ]
    plain, weights = _are_usual(activations, ("Tanh",)) and not clip, (w, r, *_biases(b, w, r))
    return _run("RNN", plain, steps, x, weights, _starts((h,), x, r, layout), lengths, direction, layout)


def _adapt(
    node: Node, inputs: tuple[Shape | None, ...], outputs: tuple[Shape, ...], sizes: Mapping[str, int]
) -> Mapping[str, Any]:
    return {"hidden_size": sizes["h"]}


for _name, _function in (("LSTM", _lstm), ("GRU", _gru), ("RNN", _rnn)):
    register(Operator(_name, _line, _function, Symmetry.PERMUTATION, adapt=_adapt, derived=frozenset({"hidden_size"})))
