"""The cases of the benchmark: which nets, by which method, how much shared, on how many samples, retrained how long.

Seeds come last: a benchmark that is stopped early has covered everything once before it covers anything twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

from ablation import ABLATIONS
from figures import FAMILIES, PAIRS

TRIPLES = (("fashion-low", "fashion-high", "digits"), ("fashion", "digits", "animals"))
METHODS = (
    "zip", "zip+repair", "mtz", "average", "permute", "permute+repair", "rebasin", "rebasin+repair", "otfusion",
    "otfusion+repair", "zipit", "zipit+repair", "regmean",
)
REFERENCES = ("trunk", "scratch")  # of pairs, at share 1: the first net's trunk with a new head; all weights drawn at random
SHARES = (1.0, 0.8, 0.5, 0.25)
SAMPLES = (100, 500, 1000, 5000)
STEPS = (30, 100, 300, 1000)
USUAL = 1000  # samples


class Case(NamedTuple):
    """One merge, retrained where `steps` is not 0."""

    family: str
    tasks: tuple[str, ...]
    method: str
    share: float = 1.0
    layout: str = "strands"
    samples: int = USUAL
    steps: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the file with its result."""
        parts = (self.family, "~".join(self.tasks), self.method, f"{self.share:g}", self.layout, self.samples, self.steps)
        return "_".join(map(str, (*parts, self.seed)))


def sizes(families: Iterable[str], seeds: Iterable[int], methods: Iterable[str] = METHODS) -> Iterator[Case]:
    """Error against size: every set of nets, share and method; both layouts where there is something to lay out."""
    for seed, share, tasks, family, method in product(seeds, (1.0, 0.5, 0.8, 0.25), (*PAIRS, *TRIPLES), families, methods):
        yield Case(family, tasks, method, share, seed=seed)
        if share < 1:
            yield Case(family, tasks, method, share, "wide", seed=seed)


def calibrations(families: Iterable[str], seeds: Iterable[int], methods: Iterable[str] = METHODS) -> Iterator[Case]:
    """Error against calibration samples, everything shared."""
    for seed, samples, tasks, family, method in product(seeds, SAMPLES, PAIRS, families, methods):
        yield Case(family, tasks, method, samples=samples, seed=seed)


def courses(families: Iterable[str], seeds: Iterable[int], methods: Iterable[str] = METHODS) -> Iterator[Case]:
    """Error against steps of retraining, everything shared."""
    for seed, steps, tasks, family, method in product(seeds, (0, *STEPS), PAIRS, families, (*methods, *REFERENCES)):
        yield Case(family, tasks, method, steps=steps, seed=seed)


def ablations(seeds: Iterable[int]) -> Iterator[Case]:
    """The zip without one of its parts."""
    families = ("lenet5", "vgg", "resnet")
    for seed, share, tasks, family, method in product(seeds, (1.0, 0.5), PAIRS, families, ("zip", *ABLATIONS)):
        yield Case(family, tasks, method, share, seed=seed)


def quick() -> list[Case]:
    """A few minutes: the smallest nets, one pair, one seed."""
    some = ("lenet300",)
    found = [Case("lenet300", PAIRS[0], m, share) for share in (1.0, 0.5) for m in METHODS]
    found += [Case("lenet5", PAIRS[0], m) for m in ("zip", "mtz", "permute", "permute+repair", "regmean")]
    found += [c for c in calibrations(some, (0,), ("zip", "mtz", "regmean")) if c.tasks == PAIRS[0] and c.samples < 5000]
    found += [Case("lenet300", PAIRS[0], m, steps=n) for m in ("zip", "mtz", "scratch", "trunk") for n in (0, 30, 100)]
    return list(dict.fromkeys(found))


def full(families: Iterable[str] = FAMILIES, seeds: Iterable[int] = (0, 1, 2)) -> list[Case]:
    """Everything, the most telling first."""
    some, rounds = tuple(families), tuple(seeds)
    found: list[Case] = []
    for seed in rounds:
        found += [c for c in sizes(some, (seed,)) if c.share == 1]
        found += ablations((seed,))
        found += sizes(some, (seed,))
        found += calibrations(some, (seed,))
        found += courses(some, (seed,))
    return list(dict.fromkeys(found))
