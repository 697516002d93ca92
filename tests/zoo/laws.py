"""A net held against the laws of the merge, and what came of it.

4  merged with a copy whose channels stand in another order, it is the net: exactly the same copy, and one whose weights are
   off by a millionth, so that no row is the same bit for bit and each finds its own in what it explains
5  sharing nothing leaves the originals
6  the order of channels means nothing
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from fusing import Arrays, fuse, outputs, permuted

from onnxzip.analysis import Plan, analyse
from onnxzip.analysis.coupling import couple
from onnxzip.analysis.strands import SpacePlan
from onnxzip.calibration.samples import Source
from onnxzip.fusion.assembling import output_name
from onnxzip.net import Net

NEARLY = 1e-6


@dataclass(frozen=True)
class Found:
    """What a net and its copy have in common, and how far the laws are met: differences relative to the largest output.

    Attributes:
        spaces: that can be shared at all; shared: of these, wholly.
        channels: in all that can be shared, and shared_channels, those that are; of heads with what lies inside.
        left: params of the fused net over those of both nets.
        refusals: of the first net.
        same, nearly: law 4, of an exact copy and of one that is a little off; unshared: law 5; reordered: law 6.
        seconds: of one core, for the plan.
    """

    spaces: int
    shared: int
    channels: int
    shared_channels: int
    left: float
    refusals: tuple[tuple[str, str], ...]
    same: float
    nearly: float
    unshared: float
    reordered: float
    seconds: float


def examine(net: Net, feeds: Arrays, fresh: Arrays) -> Found:
    """Merge a net with copies of itself.

    Args:
        feeds: samples to merge on; fresh: samples to compare outputs on.
    """
    first, second = replace(net, name="a"), permuted(net, 5, "b")
    start = time.process_time()
    plan = analyse([first, second])
    seconds = time.process_time() - start
    want = outputs(first, fresh)
    fused = merged([first, second], feeds, 1.0)
    size = sum(a.size for a in net.params.values())
    spaces = plan.shared_spaces()
    return Found(
        len(spaces), sum(s.shared == max(s.sizes.values()) for s in spaces), sum(channels_of(s) for s in spaces),
        sum(channels_of(s) * s.shared // s.sizes["a"] for s in spaces),
        sum(a.size for a in fused.params.values()) / (2 * size), refusals_of(plan), apart(outputs(fused, fresh), want),
        apart(outputs(merged([first, off(second)], feeds, 1.0), fresh), want),
        apart(outputs(merged([first, second], feeds, 0.0), fresh), want),
        apart_from(outputs(second, fresh), want), seconds,
    )


def refusals_of(plan: Plan) -> tuple[tuple[str, str], ...]:
    """(where, why) of the first net and of what both share."""
    found = [(r.where.removeprefix("a: "), r.why) for r in plan.refusals if not r.where.startswith("b: ")]
    return tuple(dict.fromkeys(found))


def off(net: Net) -> Net:
    """The net with all params that carry channels off by a millionth."""
    coupling, rng = couple(net), np.random.default_rng(2)
    channels = coupling.produced | set(coupling.inside)
    params = dict(net.params)
    for name, array in net.params.items():
        if array.dtype.kind == "f" and any(atom in channels for e in coupling.exprs(name) for atom in e.atoms()):
            params[name] = np.asarray(array * (1 + NEARLY * rng.standard_normal(array.shape)), np.float32)
    return replace(net, params=params)


def merged(nets: list[Net], feeds: Arrays, share: float) -> Net:
    """The nets merged on the same samples."""
    return fuse(nets, share, sources=[Source(tuple(n.name for n in nets), feeds, {})]).net


def channels_of(space: SpacePlan) -> int:
    """Channels of a space in the first net; of heads, with those inside."""
    return space.sizes["a"] * (sum(space.inside.values()) or 1)


def apart(found: Mapping[str, np.ndarray], want: Arrays) -> float:
    """Largest difference of both tasks' outputs from those wanted, relative to these."""
    return max(_apart(found[output_name(t, k)], v) for t in "ab" for k, v in want.items())


def apart_from(found: Arrays, want: Arrays) -> float:
    """Largest difference of a net's outputs from those wanted, relative to these."""
    return max(_apart(found[k], v) for k, v in want.items())


def _apart(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())
