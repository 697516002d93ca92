"""Statistics of a step as the ORIGINAL nets compute its inputs: what fits need that never run the fused net.

A merge that shares nothing is the original nets side by side. Its own statistics hold every column of every net once; those of
a fused strand are a choice of these columns, zero where a task has none there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.steps import Step, channels_at
from onnxzip.fusion.problem import Reads, original_channels, original_rows
from onnxzip.fusion.statistics import StepStatistics, TaskStatistics
from onnxzip.linalg.moments import ChannelMoments, Moments
from onnxzip.linalg.symmetric import Symmetric
from onnxzip.matching.match import Matches, located


@dataclass(frozen=True)
class OriginalStatistics:
    """The statistics of a step of one plan, from those of the plan that shares nothing.

    Attributes:
        plan, matches: of the merge, as far as its channels are matched.
        step: of both plans.
        apart: plan without shares; apart_matches, apart_reads: of it.
        inner: its statistics.
        shrink: factor of products of different columns (RegMean, Jin et al., ICLR 2023, section 4.2); where columns outnumber
            rows the products are never formed, and stay as they are.
    """

    plan: Plan
    matches: Matches
    step: Step
    apart: Plan
    apart_matches: Matches
    apart_reads: Mapping[str, Reads]
    inner: StepStatistics
    shrink: float

    kept = False  # rows for a fit through the activation: the original nets' are not kept

    @property
    def dual(self) -> bool:
        """Whether columns outnumber rows."""
        return self.inner.dual

    def of(self, task: str, reads: Reads, group: int) -> TaskStatistics:
        """Statistics of one task over the columns that a strand reads."""
        found = self.inner.of(task, self.apart_reads[task], group)
        at = self.columns(task, reads, group)
        if found.rows is not None:
            some, held = ((_chosen(z, at), p) for z, p in found.rows)
            return replace(found, rows=(some, held))
        own = original_rows(self.plan, self.step, reads, group, task, self.matches)
        return TaskStatistics(self._shrunk(found.train, at, own), self._shrunk(found.held, at, own))

    def sampled(self, task: str, reads: Reads, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Never asked for: `kept` is false."""
        raise ValueError(f"step {self.step.name!r}: no rows of the original nets are kept")

    def covariance(self, number: int, task: str) -> np.ndarray:
        """Of a space's channels in one original net."""
        return self.inner.covariance(number, task)

    def of_channels(self, task: str, reads: Reads) -> tuple[ChannelMoments, ChannelMoments]:
        """Of a diagonal step: statistics of one task for the channels of one strand, in its order."""
        at = self._channels(self.plan, reads, task, self.matches)
        known = self._channels(self.apart, self.apart_reads[task], task, self.apart_matches)
        place = np.full(max(int(known.max()), int(at.max())) + 1, -1)
        place[known] = np.arange(len(known))
        where = np.where(at >= 0, place[np.maximum(at, 0)], -1)
        own = original_channels(self.plan, self.step, reads.key, task, self.matches)
        some = self.inner.of_channels(task, self.apart_reads[task])
        train, held = (self._shrunk_channels(m, where, own) for m in some)
        return train, held

    def columns(self, task: str, reads: Reads, group: int) -> np.ndarray:
        """Which of the task's own columns each column of a strand is, negative for none: int [columns]; the constant last."""
        offsets = np.cumsum([0, *(b.size for b in self.apart_reads[task].blocks)])
        own: dict[tuple[int, int, int], int] = {}
        for block, start in zip(self.apart_reads[task].blocks, offsets, strict=False):
            at = self._located(self.apart, block.piece.keys, block.part, task, self.apart_matches)
            mine = at[group * block.channels : (group + 1) * block.channels]
            own |= {
                (block.part, tap, int(c)): int(start) + tap * block.channels + k
                for tap in range(block.taps) for k, c in enumerate(mine) if c >= 0
            }
        found = []
        for block in reads.blocks:
            at = self._located(self.plan, block.piece.keys, block.part, task, self.matches)
            mine = at[group * block.channels : (group + 1) * block.channels]
            found += [own.get((block.part, tap, int(c)), -1) for tap in range(block.taps) for c in mine]
        return np.array([*found, int(offsets[-1])], np.int64)

    def _located(self, plan: Plan, keys: Sequence[frozenset[str]], part: int, task: str, matches: Matches) -> np.ndarray:
        role = self.step.parts[part]
        expr = channels_at(plan.overlay, role, task, str(role.inputs[0]))
        return located(plan.overlay, expr, task, tuple(keys), matches)

    def _channels(self, plan: Plan, reads: Reads, task: str, matches: Matches) -> np.ndarray:
        return self._located(plan, reads.blocks[0].piece.keys, 0, task, matches)

    def _shrunk(self, m: Moments, at: np.ndarray, own: np.ndarray) -> Moments:
        """Moments over chosen columns: G a + diag(G) (1 - a), and what the task's own rows make of the latter."""
        known = (at >= 0).astype(np.float64)
        safe = np.maximum(at, 0)
        zz = np.asarray(m.zz)[np.ix_(safe, safe)] * np.outer(known, known)
        zp = m.zp[safe] * known[:, None]
        diagonal = np.diagonal(zz).copy()
        a = self.shrink
        return Moments(
            m.count, Symmetric.of(a * zz + (1 - a) * np.diag(diagonal)), a * zp + (1 - a) * diagonal[:, None] * own.T, m.pp
        )

    def _shrunk_channels(self, m: ChannelMoments, at: np.ndarray, own: np.ndarray) -> ChannelMoments:
        known = (at >= 0).astype(np.float64)
        safe, a = np.maximum(at, 0), self.shrink
        zz, zp, pp = (x[safe] * known.reshape(-1, *(1,) * (x.ndim - 1)) for x in (m.zz, m.zp, m.pp))
        diagonal = np.einsum("ckk->ck", zz)
        shrunk = a * zz + (1 - a) * diagonal[:, :, None] * np.eye(zz.shape[-1])
        return ChannelMoments(m.count, shrunk, a * zp + (1 - a) * diagonal[:, :, None] * own.swapaxes(1, 2), pp)


def _chosen(z: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.where(at >= 0, z[:, np.maximum(at, 0)], np.zeros((), z.dtype))
