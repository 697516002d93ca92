"""What is to be said of caches: whoever feeds back what one task says must know who goes on from it."""

from __future__ import annotations

from collections.abc import Sequence

from onnxzip.analysis.caches import Cache, caches_of
from onnxzip.analysis.plan import Plan


def notes_on_caches(plan: Plan) -> tuple[str, ...]:
    """What is to be said of caches that feed several tasks at once: of those that these share, and of the others."""
    shared, fed = list[Cache](), list[Cache]()
    task = plan.tasks[0]
    for cache in caches_of(plan.nets[task]):
        name = plan.overlay.fed(task)[cache.input]
        tasks = frozenset(plan.overlay.values[name])
        together = any(tasks <= piece.owners for piece in plan.layout.pieces[name].values())
        if len(tasks) > 1:
            (shared if together else fed).append(cache)
    found = []
    if shared:
        found.append(
            f"{_named(shared)} a cache of heads that the tasks share: begin with nothing in it, and feed back what output "
            f"{shared[0].output!r} of any of them says"
        )
    if fed:
        found.append(
            f"{_named(fed)} a cache (output {fed[0].output!r} begins with it), and feeds several tasks at once: "
            f"--apart {fed[0].input} gives each task its own"
        )
    return tuple(found)


def _named(caches: Sequence[Cache]) -> str:
    first = f"input {caches[0].input!r}"
    return f"{first} is" if len(caches) == 1 else f"{first}, as {len(caches) - 1} more, is"
