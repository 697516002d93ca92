"""Tied params: what several nodes of an original read as one param is one again in the fused net, where it is still one.

    w, read by p and q  ->  a fused param for p, one for q  ->  the first of them, read by both, where their bytes agree
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.roles import Role
from onnxzip.analysis.steps import linear_of
from onnxzip.net import Shape

Origin = frozenset[tuple[str, str, bool]]  # task, its param, whether the fused one is a bias that this param was given


def tied(plan: Plan, params: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Fused param -> the one that is read in its place: both come from the same original params, and are equal bit for bit.

    Args:
        params: of the fused net.
    """
    found: dict[str, str] = {}
    led: dict[str, list[str]] = {}
    for taken in (t for t in plan.layout.taken if t.led):  # one and the same where no channel follows any net
        led.setdefault(taken.laid, []).append(taken.name)
    for same in (*_groups(plan), *led.values()):
        first: dict[tuple[str, bytes], str] = {}
        for name in (n for n in same if n in params and n not in found):
            kept = first.setdefault((params[name].dtype.str, _digest(params[name])), name)
            if kept != name:
                found[name] = kept
    return found


def distinct_shapes(plan: Plan) -> dict[str, Shape]:
    """The params that a fused net has if all stay tied that may: name -> shape."""
    gone = {name for same in _groups(plan) for name in same[1:]}
    names = [w.name for w in plan.layout.weights] + [t.name for t in plan.layout.taken]
    return {name: plan.layout.shapes[name] for name in names if name not in gone}


def origins_of(plan: Plan) -> dict[str, Origin]:
    """Fused params, and the original ones that they come from."""
    roles, found = {r.name: r for r in plan.overlay.roles}, dict[str, Origin]()
    for fitted in plan.layout.weights:
        role = roles[fitted.role]
        tasks = fitted.key & role.members.keys() or role.members.keys()
        found[fitted.name] = frozenset(_source(plan, role, t, fitted.bias) for t in tasks)
    for taken in plan.layout.taken:
        whose, by_task = taken.led or taken.owners, plan.overlay.values[taken.laid]
        found[taken.name] = frozenset((t, v, False) for t, v in by_task.items() if t in whose)
    return found


def _groups(plan: Plan) -> list[list[str]]:
    """Fused params of one shape that come from the same original ones, where there are several."""
    found: dict[tuple[Origin, Shape], list[str]] = {}
    for name, origin in origins_of(plan).items():
        found.setdefault((origin, plan.layout.shapes[name]), []).append(name)
    return [names for (origin, _), names in found.items() if origin and len(names) > 1]


def _source(plan: Plan, role: Role, task: str, bias: bool) -> tuple[str, str, bool]:
    """The original param of one task behind fitted weights, or their bias: one that it has not goes with the weights."""
    linear, _ = linear_of(plan.overlay, role, task)
    node = role.members[task]
    given = node.input(linear.bias) if bias else None
    return (task, given, False) if given is not None else (task, str(node.inputs[linear.weight]), bias)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).data).digest()
