"""Names for values and nodes that come to stand beside those that are there, and for what a fused net gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxzip.net.records import Net


def output_name(task: str, original: str) -> str:
    """What the fused net calls an output of a task."""
    return f"{task}_{original}"


@dataclass(frozen=True)
class Names:
    """Deterministic fresh names: the wished one, or that with a number behind it."""

    taken: set[str] = field(default_factory=set)

    @staticmethod
    def beside(net: Net) -> Names:
        """Those of a net's values and nodes are taken."""
        return Names({*net.shapes, *(n.name for n in net.nodes)})

    def fresh(self, wish: str) -> str:
        """A name that is not taken, and is from now on."""
        name, k = wish, 1
        while name in self.taken:
            name, k = f"{wish}_{k}", k + 1
        self.taken.add(name)
        return name
