"""The cases of the benchmark: which nets, by which method, how much shared, on how many samples, retrained how long.

One thing varies at a time, around everything shared after 1,000 samples: every method on every set of nets there, the
strongest methods on two pairs elsewhere, courses of retraining on one. Seeds come last: a benchmark that is stopped early
has covered everything once before it covers anything twice.
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
STRONGEST = ("zip", "mtz", "permute+repair", "zipit+repair", "regmean")  # of each kind; the paper's as it stands
REFERENCES = ("trunk", "scratch")  # of pairs, at share 1: the first net's trunk with a new head; all weights drawn at random
SHARES = (1.0, 0.8, 0.5, 0.25)
SAMPLES = (100, 500, 1000, 5000)
STEPS = (30, 100, 300, 1000)
REPAIRED = 300  # steps of pairs that have one course
USUAL = 1000  # samples
ABLATED = ("lenet5", "vgg", "resnet", "mobilenet")  # families whose zip is taken apart
TWO_PAIRS = PAIRS[:2]  # halves of one data set; two data sets
PAPER = ("digits", "digits-b")  # the first experiment of Multi-Task Zipping, of the families that have both nets
PAPER_FAMILIES = ("lenet300", "lenet5")
LONGER = {"mobilenet": (3000,)}  # steps from scratch of families that need more, once
MANY = SAMPLES[-1]  # a zip of more samples is retrained, too: whoever can retrain on many has them


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


def whole(families: Iterable[str], seeds: Iterable[int]) -> Iterator[Case]:
    """Everything shared: every set of nets and method."""
    for seed, tasks, family, method in product(seeds, (*PAIRS, *TRIPLES), families, METHODS):
        yield Case(family, tasks, method, seed=seed)


def sizes(families: Iterable[str], seeds: Iterable[int]) -> Iterator[Case]:
    """Error against size, in both layouts at half."""
    layouts = [(share, "strands") for share in SHARES] + [(0.5, "wide")]
    for seed, (share, layout), tasks, family, method in product(seeds, layouts, TWO_PAIRS, families, STRONGEST):
        yield Case(family, tasks, method, share, layout, seed=seed)


def calibrations(families: Iterable[str], seeds: Iterable[int], methods: Iterable[str] = STRONGEST) -> Iterator[Case]:
    """Error against calibration samples, everything shared."""
    for seed, samples, tasks, family, method in product(seeds, SAMPLES, TWO_PAIRS, families, methods):
        yield Case(family, tasks, method, samples=samples, seed=seed)


def courses(families: Iterable[str], seeds: Iterable[int]) -> Iterator[Case]:
    """Error against steps of retraining, everything shared, of the zip also from more samples; the longest from scratch with
    the first seed alone."""
    for seed, steps, family, method in product(seeds, (0, *STEPS), families, (*STRONGEST, *REFERENCES)):
        yield Case(family, PAIRS[0], method, steps=steps, seed=seed)
    for seed, steps, family in product(seeds, (0, *STEPS), families):
        yield Case(family, PAIRS[0], "zip", samples=MANY, steps=steps, seed=seed)
    for family in families if 0 in seeds else ():
        for steps in LONGER.get(family, ()):
            yield Case(family, PAIRS[0], "scratch", steps=steps)


def repairs(families: Iterable[str], seeds: Iterable[int]) -> Iterator[Case]:
    """The zip of all other pairs, retrained."""
    for seed, steps, tasks, family in product(seeds, (0, REPAIRED), (*PAIRS[1:], PAPER), families):
        if tasks != PAPER or family in PAPER_FAMILIES:
            yield Case(family, tasks, "zip", steps=steps, seed=seed)


def ablations(seeds: Iterable[int]) -> Iterator[Case]:
    """The zip without one of its parts."""
    for seed, share, tasks, family, method in product(seeds, (1.0, 0.5), TWO_PAIRS, ABLATED, ("zip", *ABLATIONS)):
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
        for kind in (whole, sizes, calibrations, courses, repairs):
            found += kind(some, (seed,))
        found += [c for c in ablations((seed,)) if c.family in some]
    return list(dict.fromkeys(found))
