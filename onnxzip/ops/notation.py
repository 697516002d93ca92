"""The notation of lines, parsed: `n (p+q) *s -> n q *s` as terms per axis.

After einops (Rogozhnikov, ICLR 2022), with `+` for concatenation and `*` for the axes that are left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_TERM = re.compile(r"\([^)]*\)|\*?\w+")


@dataclass(frozen=True)
class Term:
    """What stands for one axis: names joined as a product or a sum; no name at all for `1`."""

    names: tuple[str, ...]
    sum: bool = False

    @property
    def single(self) -> str | None:
        """The name, where the axis is just one."""
        return self.names[0] if len(self.names) == 1 else None


Pattern = tuple[str, ...]


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """Input and output patterns of a line, each a tuple of term texts.

    Raises:
        ValueError: the line has no arrow.
    """
    if "->" not in text:
        raise ValueError(f"line {text!r} has no '->'")
    left, right = text.split("->")

    def side(part: str) -> tuple[Pattern, ...]:
        return tuple(tuple(_TERM.findall(p)) for p in part.split(",")) if part.strip() else ()

    return side(left), side(right)


def expand(pattern: Pattern, rank: int) -> list[Term]:
    """One term per axis of a value of this rank; `*s` becomes s0_, s1_, ... counted from its first axis.

    Raises:
        ValueError: the pattern does not fit the rank.
    """
    stars = rank - sum(not t.startswith("*") for t in pattern)
    if stars < 0 or (stars and not any(t.startswith("*") for t in pattern)):
        raise ValueError(f"pattern {' '.join(pattern)!r} does not fit rank {rank}")
    terms: list[Term] = []
    for text in pattern:
        if text.startswith("*"):
            terms += [Term((f"{text[1:]}{k}_",)) for k in range(stars)]
        elif text == "1":
            terms.append(Term(()))
        else:
            terms.append(Term(tuple(re.findall(r"\w+", text)), "+" in text))
    return terms


def is_remaining(name: str) -> bool:
    """Whether a name is one of those that `*s` stands for."""
    return name.endswith("_")
