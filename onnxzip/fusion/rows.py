"""Which values the rows of a step are made of, for one source: recipes, one for each group of the step.

Columns go part by part, piece by piece; targets task by task, in the original order of channels. Of a diagonal step the
columns are the pieces' channels, and so are the targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxzip.analysis import Plan
from onnxzip.analysis.layout import Piece
from onnxzip.analysis.standing import in_front, taps_of
from onnxzip.analysis.steps import Step, linear_of
from onnxzip.calibration.frontier import Frontier
from onnxzip.calibration.recipe import Read, Recipe, Term
from onnxzip.fusion.problem import Block, Reads
from onnxzip.matching.match import Matches, located

BlockId = tuple[int, str]


class RowPlan:
    """How the rows of a step are put together.

    Args:
        frontier: where the values live.
        step: which step; k: of which source.
        reads: the strands to be fitted on this source.
        matches: known so far.
        repair: whether a skip's own error is part of the target: the original sum less the FUSED skip.

    Attributes:
        columns: (part, piece) -> columns of z (of a diagonal step: channels); width: of all of them.
        targets: task -> columns of p, of each group; of a diagonal step "task/piece" -> targets of each channel.
        recipes: by group.
    """

    def __init__(self, frontier: Frontier, step: Step, k: int, reads: Sequence[Reads], matches: Matches, repair: bool) -> None:
        self.step, self.matches, self.repair = step, matches, repair
        self.plan: Plan = frontier.plan
        self.sized = frontier.plans[k]  # for the size of this source's samples
        self.tasks = [t for t in frontier.sources[k].tasks if t in step.tasks]
        self.blocks: dict[BlockId, Block] = {(b.part, b.piece.name): b for r in reads for b in r.blocks}
        self.groups = reads[0].groups
        self.axis = self._axis(self.tasks[0])
        self.columns: dict[BlockId, slice] = {}
        self.targets: dict[str, slice] = {}
        self.width = 0
        by_group = [tuple(self._reads(g)) for g in range(self.groups)]
        for key, read in zip(self.blocks, by_group[0], strict=True):
            size = read.size * (1 if step.diagonal else int(read.taps.shape[1]))
            self.columns[key] = slice(self.width, self.width + size)
            self.width += size
        found = [self._diagonal_terms()] if step.diagonal else [self._terms(g) for g in range(self.groups)]
        channels = self.width if step.diagonal else 0
        self.recipes = tuple(Recipe(r, tuple(t), n, channels) for r, (t, n) in zip(by_group, found, strict=True))

    def _axis(self, task: str) -> int:
        linear, view = linear_of(self.plan.overlay, self.step.parts[0], task)
        return linear.channel(view)

    def _reads(self, group: int) -> Iterator[Read]:
        shapes, parts = self.sized.layout.shapes, self.sized.step(self.step.name).parts
        for (part, name), block in self.blocks.items():
            linear, view = linear_of(self.sized.overlay, parts[part], self.tasks[0])
            axis = linear.channel(view)
            size = block.channels if self.groups > 1 else shapes[name][axis]
            before = self._before(str(parts[part].inputs[0]), axis, self.tasks[0])
            yield Read(name, axis, len(shapes[name]), taps_of(linear, view), group * size, size, before)

    def _before(self, laid: str, axis: int, task: str) -> int:
        return in_front(laid, self.sized.overlay.exprs(laid, task), axis)

    # dense ------------------------------------------------------------------------------------------------------------

    def _terms(self, group: int) -> tuple[list[Term], int]:
        """The original sums less their skips: the fused ones where they are repaired, else the original ones."""
        terms, width = [], 0
        for task in self.tasks:
            _, view = linear_of(self.plan.overlay, self.step.parts[0], task)
            size = view.outputs[0][self.axis] // self.groups
            here = np.arange(size)
            terms.append(_target(self.step.sink, task, group * size + here, width + here, 1.0))
            for laid in self.step.skips:
                if self.repair:
                    terms += self._fused_skip(laid, task, group * size, size, width)
                else:
                    terms.append(_target(laid, task, group * size + here, width + here, -1.0))
            self.targets[task] = slice(width, width + size)
            width += size
        return terms, width

    def _fused_skip(self, laid: str, task: str, first: int, size: int, width: int) -> Iterator[Term]:
        """What the fused net adds there, of the original channels from `first` on."""
        expr = self.plan.overlay.exprs(laid, task)[self.axis]
        for key, piece in self.plan.layout.pieces[laid].items():
            if task in key or task in piece.owners:
                at = located(self.plan.overlay, expr, task, piece.keys, self.matches)
                mine = np.flatnonzero((at >= first) & (at < first + size))
                rank = len(self.plan.layout.shapes[piece.name])
                less = np.full(len(mine), -1, np.float32)
                before = self._before(laid, self.axis, task)
                yield Term(piece.name, self.axis, rank, mine, width + at[mine] - first, less, before)

    # diagonal ---------------------------------------------------------------------------------------------------------

    def _diagonal_terms(self) -> tuple[list[Term], int]:
        """Targets in the pieces' order of channels, all tasks' side by side; zero where a channel is none of a task's."""
        step, plan = self.step, self.plan
        per_channel = {t: self._multiplier(t) for t in self.tasks}
        many = sum(per_channel.values())
        terms = []
        for (_, name), block in self.blocks.items():
            channels, start = plan.layout.shapes[name][self.axis], 0
            for task in self.tasks:
                multiplier = per_channel[task]
                self.targets[f"{task}/{name}"] = slice(start, start + multiplier)
                if self._stands_for(block.piece, task):
                    expr = plan.overlay.exprs(step.sink, task)[self.axis]
                    at = located(plan.overlay, expr, task, block.piece.keys, self.matches)
                    place = self.columns[0, name].start + np.arange(channels)[:, None]
                    to = (place * many + start + np.arange(multiplier)).reshape(-1)
                    known = at >= 0
                    terms.append(_target(step.sink, task, at[known], to[known], 1.0))
                start += multiplier
        return terms, self.width * many

    def _multiplier(self, task: str) -> int:
        """Output channels per channel of a diagonal step."""
        linear, view = linear_of(self.plan.overlay, self.step.parts[0], task)
        assert view.inputs[0] is not None
        return view.outputs[0][self.axis] // view.inputs[0][linear.channel(view)]

    def _stands_for(self, piece: Piece, task: str) -> bool:
        return not piece.keys or any(task in key for key in piece.keys)


def _target(laid: str, task: str, at: np.ndarray, to: np.ndarray, factor: float) -> Term:
    return Term((laid, task), None, 2, at, to, np.full(at.shape, factor, np.float32))
