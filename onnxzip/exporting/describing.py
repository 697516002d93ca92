"""The fused net with all that its file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from onnxzip.analysis import Plan
from onnxzip.config import Options
from onnxzip.exporting.again import kept_tasks, merged_from, namer, origins_by_task, tasks_of
from onnxzip.exporting.metadata import PREFIX, Origin, describe, origins_of
from onnxzip.exporting.report import sha256_of
from onnxzip.fusion.assembling import assemble
from onnxzip.fusion.zipping import Zipped
from onnxzip.net import Net


def described(plan: Plan, zipped: Zipped, files: Mapping[str, Path], options: Options) -> tuple[Net, dict[str, Origin]]:
    """The fused net with its metadata, and where its nets come from."""
    kept, choice = kept_tasks(plan.nets), options.plan
    net = assemble(plan, zipped.params, {}, namer(kept))
    origins = origins_of(plan, net, {t: (p.name, sha256_of(p)) for t, p in files.items()})
    tasks, every = origins_by_task(origins, kept), partial(tasks_of, kept=kept)
    entries = describe(plan, net, tasks, options.zip.method, choice.layout, choice.share, every)
    foreign = {k: v for k, v in net.metadata.items() if not k.startswith(PREFIX)}
    return replace(net, metadata={**foreign, **entries, **merged_from(origins, kept)}), origins
