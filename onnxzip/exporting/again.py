"""Merging again: a net that is a fused file itself is laid over the others as one net, and its tasks keep their names.

    onnxzip merge low=a.onnx high=b.onnx -o ab.onnx      tasks low, high
    onnxzip merge both=ab.onnx third=c.onnx -o abc.onnx  tasks low, high, third; `both` holds two of them

Where a name is taken, the net's stands before it: both.low. Each task still tells the file that it was first made from, so
`verify`, `retrain` and `split` mean the same task as before; the entry `merged_from` tells what it has passed through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from onnxzip.calibration.reading import Together, without_data
from onnxzip.errors import UsageError
from onnxzip.exporting.metadata import PREFIX, is_fused, read_origins, to_json
from onnxzip.exporting.origin import Origin
from onnxzip.net import output_name

Kept = Mapping[str, Mapping[str, Origin]]


def kept_tasks(nets: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Origin]]:
    """For each net that holds several tasks: task in the new file -> where the net's own file says it comes from.

    Args:
        nets: the metadata of each.

    Raises:
        UsageError: two tasks would have one name.
    """
    inner = {name: read_origins(entries, name) for name, entries in nets.items() if is_fused(entries)}
    several = {name: origins for name, origins in inner.items() if len(origins) > 1}
    wishes = Counter([*(name for name in nets if name not in several), *(t for o in several.values() for t in o)])
    kept = {
        name: {task if wishes[task] == 1 else f"{name}.{task}": origin for task, origin in origins.items()}
        for name, origins in several.items()
    }
    names = Counter([*(name for name in nets if name not in several), *(t for tasks in kept.values() for t in tasks)])
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(f"two tasks would be called {twice[0]!r}. Name the nets apart as NAME=FILE.onnx.")
    return kept


def data_by_net(data: Any, kept: Kept) -> Any:
    """Data by the nets of a merge: those for the tasks of a net that holds several serve it together.

    Raises:
        UsageError: data for a net as well as for its tasks.
        InvalidDataError: data for some of its tasks only, and none for all.
    """
    if not isinstance(data, Mapping):
        return data
    found = dict(data)
    for net, tasks in kept.items():
        given = {task: item for task in tasks if (item := found.pop(task, None)) is not None}
        if given and net in found:
            raise UsageError(f"data for {net!r} and for its tasks ({', '.join(tasks)}). Give either.")
        missing = [task for task in tasks if task not in given]
        if given and missing and found.get("") is None:
            raise without_data(missing[0])
        if given:
            orders = [tasks[task].places for task in (*given, *missing[:1])]
            found[net] = Together((*given.values(), *([found[""]] if missing else [])), tuple(orders))
    return found


def namer(kept: Kept) -> Callable[[str, str], str]:
    """What the new file calls an output of a net: by the task that it belongs to."""
    names = {
        (net, there): output_name(task, original)
        for net, tasks in kept.items()
        for task, origin in tasks.items()
        for original, there in origin.outputs.items()
    }
    return lambda net, output: names.get((net, output), output_name(net, output))


def tasks_of(net: str, kept: Kept) -> list[str]:
    """The tasks that a net of a merge stands for."""
    return list(kept.get(net, [net]))


def origins_by_task(by_net: Mapping[str, Origin], kept: Kept) -> dict[str, Origin]:
    """Where each task comes from, given where each net does."""
    found = {}
    for name, outer in by_net.items():
        if name not in kept:
            found[name] = outer
        for task, inner in kept.get(name, {}).items():
            inputs = {new: inner.inputs[mid] for new, mid in outer.inputs.items() if mid in inner.inputs}
            outputs = {original: outer.outputs[mid] for original, mid in inner.outputs.items()}
            features = tuple(n for n, mid in inner.outputs.items() if n in inner.features or mid in outer.features)
            read = {v: outer.before_tail[mid] for v, mid in inner.before_tail.items() if mid in outer.before_tail}
            called = {own: mid for mid, own in inner.inputs.items()}
            states = {own: state.behind(outer.states.get(called[own])) for own, state in inner.states.items()}
            fixed = {**inner.fixed, **{inner.inputs[mid]: n for mid, n in outer.fixed.items() if mid in inner.inputs}}
            found[task] = replace(
                inner, inputs=inputs, outputs=outputs, features=features, before_tail=read, states=states, fixed=fixed
            )
    return found


def merged_from(by_net: Mapping[str, Origin], kept: Kept) -> dict[str, str]:
    """The metadata entry that tells which fused files were merged again; empty where none was."""
    files = {
        net: {"source": by_net[net].source, "sha256": by_net[net].sha256, "tasks": list(tasks)} for net, tasks in kept.items()
    }
    return {PREFIX + "merged_from": to_json(files)} if files else {}
