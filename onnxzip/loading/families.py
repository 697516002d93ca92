"""Nets that are merged, and the axes of their inputs that are free: which of them have one size, and the nets at a size.

An axis is free where a file gives no number for it, or where the files give different ones. Axes with one name have one size.
Loading at several sizes tells what depends on them, as two batches tell what depends on the batch.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxzip.errors import InvalidModelError, UnsupportedError
from onnxzip.loading.canon import mergeable
from onnxzip.loading.carried import with_orders
from onnxzip.loading.dims import batch_name, bound, free_axes, no_usual_size, ports_of_graph, recorded, summed, usual_sizes
from onnxzip.loading.files import opset_of, read_mapped
from onnxzip.loading.fixing import Fixed, Models, asked_numbers, check_fixed, lone_inputs, with_fixed
from onnxzip.loading.freeing import freed, is_fixed, is_free
from onnxzip.loading.half_ports import with_float32_input
from onnxzip.loading.in_front import axes_of, placed, with_samples_in_front
from onnxzip.loading.inputs import Given, Laid, laid_inputs, names_of, partly_had
from onnxzip.loading.levelling import levelled
from onnxzip.loading.preparing import OLDEST_CANONICAL_OPSET
from onnxzip.net import Axis, Net, common_name, place_in_file
from onnxzip.pairs import Fixes
from onnxzip.runtime import BATCH_NAME, entries_of

LARGE_BYTES = 16 << 20  # of params; beyond it garbage is collected: tensors of graphsurgeon hold themselves and their values
Numbers = Mapping[str, int]  # name of a size -> the size
Dim = tuple[int, str]  # number (0: none) and name
Named = tuple[tuple[Axis, ...], str]  # axes of one size, and its name


@dataclass(frozen=True)
class Group:
    """Axes that have one size.

    Attributes:
        name: of the size.
        axes: inputs of the fused net, and their axes.
        samples: input of the fused net -> axis along which its file will have the samples.
    """

    name: str
    axes: tuple[Axis, ...]
    samples: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def where(self) -> str:
        places = (place_in_file(a, self.samples.get(a.value, 0)) for a in self.axes)
        return " and ".join(f"axis {a.dim} of input {a.value!r}" for a in places)


@dataclass(frozen=True)
class Family:
    """Nets that are merged.

    Attributes:
        models: task -> file and what is in it, inputs with their samples in front.
        axes: task -> input or output -> axis along which its file has the samples, where that is not the first one.
        inputs: task -> input of the fused net -> its own.
        groups: free axes.
        opset: of all nets.
        fixed: task -> input of its file that is a constant of the model -> its number.
    """

    models: Models
    axes: Mapping[str, Mapping[str, int]]
    inputs: Laid
    groups: tuple[Group, ...]
    opset: int
    fixed: Mapping[str, Fixed]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.models)

    @property
    def lone(self) -> dict[str, list[ValueInfoProto]]:
        """The inputs of nets that are one number, which nobody has said yet."""
        found = {task: lone_inputs(model) for task, (_, model) in self.models.items()}
        return {task: ports for task, ports in found.items() if ports}

    def fixed_at(self, numbers: Mapping[str, Fixed]) -> Family:
        """The nets with constants in the place of inputs that are one number.

        Args:
            numbers: by task.

        Raises:
            UnsupportedError: there are others.
        """
        models = {t: (path, with_fixed(model, numbers.get(t, {}))) for t, (path, model) in self.models.items()}
        check_fixed(models)
        return replace(self, models=models, fixed={t: {**known, **numbers.get(t, {})} for t, known in self.fixed.items()})

    def declared(self, task: str) -> dict[str, int]:
        """The free sizes for which a net's own file has a number."""
        dims = _dims(self.models[task][1])
        numbers = {g.name: [dims[a.value][a.dim][0] for a in self.own(task, g)] for g in self.groups}
        return {name: max(found) for name, found in numbers.items() if any(found)}

    def axes_by_name(self, task: str) -> dict[str, int]:
        """Input, as the fused net or the net itself calls it -> axis along which the net's file has the samples."""
        own, axes = self.inputs[task], self.axes[task]
        return {name: axes.get(mine, 0) for fused, mine in own.items() for name in (mine, fused)}

    def numbers(self, task: str, sizes: Numbers) -> dict[Axis, int]:
        """Sizes by a net's own inputs and axes."""
        return {a: sizes[g.name] for g in self.groups for a in self.own(task, g)}

    def nets(self, sizes: Numbers) -> tuple[Net, ...]:
        """All nets at a size. Where some take any number of samples, those that take one are made to as well.

        Raises:
            InvalidModelError, UnsupportedError: one of them does not work there.
        """
        models = self.models
        if self.groups:
            models = {t: (path, bound(model, self.numbers(t, sizes))) for t, (path, model) in models.items()}
        nets = tuple(self._alone(path, task, model) for task, (path, model) in models.items())
        if any(is_free(net) for net in nets):
            nets = tuple(self._freed(*models[n.name], n) if is_fixed(n) else n for n in nets)
        return tuple(map(with_orders, levelled(nets, self.inputs)))

    def _alone(self, path: Path, task: str, model: ModelProto) -> Net:
        net = self._net(path, task, model)
        if self.groups and sum(a.nbytes for a in net.params.values()) > LARGE_BYTES:
            gc.collect()
        return net

    def _freed(self, path: Path, model: ModelProto, net: Net) -> Net:
        return freed(path, model, net, lambda free: self._net(path, net.name, free))

    def _net(self, path: Path, task: str, model: ModelProto) -> Net:
        return replace(placed(mergeable(path, task, model, self.opset), self.axes[task]), fixed=self.fixed[task])

    def usual(self) -> tuple[dict[str, int], tuple[Net, ...]]:
        """Sizes for nets without data, and the nets: numbers of the files, else the first usual ones at which all nets work.

        Raises:
            UnsupportedError: there are none; it says what was tried.
        """
        why: Exception | None = None
        for sizes in self._candidates():
            try:
                return sizes, self.nets(sizes)
            except (InvalidModelError, UnsupportedError) as error:
                why = why or error
        if self.differing():
            raise self.of_one_size(self.differing(), why)
        path, model = next((p, m) for p, m in self.models.values() if free_axes(m))
        raise no_usual_size(path, model, why)

    def differing(self) -> tuple[Group, ...]:
        """Axes for which the files have different numbers."""
        told = [self.declared(t) for t in self.tasks]
        return tuple(g for g in self.groups if len({d[g.name] for d in told if g.name in d}) > 1)

    def of_one_size(self, groups: Iterable[Group], why: Exception | None) -> UnsupportedError:
        """The error of nets whose inputs differ in axes of one size."""
        told = {t: self.declared(t) for t in self.tasks}
        numbers = {g: ", ".join(f"{n[g.name]} for {t}" for t, n in told.items() if g.name in n) for g in groups}
        places = "; ".join(f"{g.where}: {some}" if some else g.where for g, some in numbers.items())
        both = " and ".join(self.tasks)
        return UnsupportedError(
            f"{both} have inputs of different size ({places}), and not all of them work at another one. Nets of one merge "
            "read the same input: export them for one size, each with what makes its own of that as its first node. What goes "
            f"wrong at another size: {why}"
        )

    def _candidates(self) -> Iterable[dict[str, int]]:
        known = {k: v for task in reversed(self.tasks) for k, v in self.declared(task).items()}
        first = {g: next(t for t in self.tasks if self.own(t, g)) for g in self.groups}
        told = {t: recorded(self.models[t][1]) for t in dict.fromkeys(first.values())}
        known |= {g.name: n for g, t in first.items() for a, n in told[t].items() if a in self.own(t, g)}
        usual = {task: list(usual_sizes(self.models[task][1])) for task in told}
        seen: list[dict[str, int]] = []
        for k in range(max(map(len, usual.values()))):
            numbers = {g: usual[t][min(k, len(usual[t]) - 1)] for g, t in first.items()}
            own = {g.name: max(numbers[g].get(a, 0) for a in self.own(first[g], g)) for g in self.groups}
            sizes = summed({name: known.get(name) or number for name, number in own.items()})
            if sizes not in seen:
                seen.append(sizes)
                yield sizes

    def own(self, task: str, group: Group) -> tuple[Axis, ...]:
        """Axes of a net's own inputs that have one size; none where it has none of these inputs."""
        mine = self.inputs[task]
        return tuple(Axis(mine[a.value], a.dim) for a in group.axes if a.value in mine)


def family(
    files: Mapping[str, Path], opset: int | None = None, apart: Sequence[str] = (), fix: Fixes = ()
) -> Family:
    """Read files that are merged.

    Args:
        opset: of all nets; None for the highest of theirs.
        apart: globs over names of inputs that are each net's own.
        fix: inputs, of all nets or as TASK:INPUT, that are one number, and that number.

    Raises:
        InvalidModelError, UnsupportedError: a file is no valid ONNX net, or none that can be merged; two have no input in
            common.
        UsageError: a glob fits no input, or an input that is to be fixed cannot be.
    """
    models: Models = {name: (path, read_mapped(path)) for name, path in files.items()}
    fixed = asked_numbers(models, fix)
    models = {name: (path, with_fixed(model, fixed[name])) for name, (path, model) in models.items()}
    axes = {name: axes_of(model) for name, (_, model) in models.items()}
    models = {name: (path, with_samples_in_front(model, axes[name])) for name, (path, model) in models.items()}
    inputs = _laid(models, apart)
    models = _of_one_float(models, inputs)
    opset = opset or max((OLDEST_CANONICAL_OPSET, *(opset_of(model) for _, model in models.values())))
    dims = {task: _dims(model) for task, (_, model) in models.items()}
    batch = common_name(batch_name(model) for _, model in models.values()) or BATCH_NAME
    samples = {fused: axes[t].get(own, 0) for t in reversed(tuple(models)) for fused, own in inputs[t].items()}
    groups = _named(_groups(dims, inputs), batch, samples)
    return Family(models, axes, inputs, groups, opset, fixed)


def _laid(models: Models, apart: Sequence[str]) -> Laid:
    """What the fused net calls the inputs of each net; float16 and float32 are one type."""
    ports = {t: [_given(p) for p in ports_of_graph(model) if p.type.tensor_type.shape.dim] for t, (_, model) in models.items()}
    partly = {t: partly_had(entries_of(model)) for t, (_, model) in models.items()}
    return laid_inputs(ports, apart, partly)


def _given(port: ValueInfoProto) -> Given:
    kind = port.type.tensor_type
    stored = TensorProto.FLOAT if kind.elem_type == TensorProto.FLOAT16 else kind.elem_type
    return Given(port.name, tuple(max(d.dim_value, 0) for d in kind.shape.dim), stored)


def _of_one_float(models: Models, inputs: Laid) -> Models:
    """Inputs of float16 that are float32 in another net become so in all: what holds both."""
    ports = {t: {p.name: p.type.tensor_type.elem_type for p in ports_of_graph(model)} for t, (_, model) in models.items()}
    found = dict(models)
    for value in names_of(inputs):
        places = {t: (names[value], ports[t][names[value]]) for t, names in inputs.items() if value in names}
        if {kind for _, kind in places.values()} == {TensorProto.FLOAT, TensorProto.FLOAT16}:
            for task, (name, kind) in places.items():
                path, model = found[task]
                found[task] = path, model if kind == TensorProto.FLOAT else with_float32_input(model, name)
    return found


def _dims(model: ModelProto) -> dict[str, tuple[Dim, ...]]:
    return {
        p.name: tuple((max(d.dim_value, 0), d.dim_param) for d in p.type.tensor_type.shape.dim) for p in ports_of_graph(model)
    }


def _groups(dims: Mapping[str, Mapping[str, tuple[Dim, ...]]], inputs: Laid) -> list[Named]:
    """Free axes, those of one name together."""
    found: list[tuple[set[tuple[str, str]], list[Axis], str]] = []  # (task, name) that tie; axes; name
    for value in names_of(inputs):
        here = [(t, dims[t][inputs[t][value]]) for t in dims if value in inputs[t]]
        own = here[0][1]
        for k in range(1, len(own)):
            there = [(t, d[k]) for t, d in here if len(d) == len(own)]
            numbers = {n for _, (n, _) in there}
            if len(there) < len(here) or (len(numbers) == 1 and 0 not in numbers):
                continue
            ties = {(t, name) for t, (n, name) in there if name and not n}
            name = next((name for _, (n, name) in there if name and not n), "")
            joined = [g for g in found if g[0] & ties]
            axes = [a for g in joined for a in g[1]] + [Axis(value, k)]
            merged = (set().union(ties, *(g[0] for g in joined)), axes, next((g[2] for g in joined if g[2]), name))
            found = [g for g in found if g not in joined] + [merged]
    return [(tuple(axes), name) for _, axes, name in found]


def _named(groups: Sequence[Named], batch: str, samples: Mapping[str, int]) -> tuple[Group, ...]:
    """Groups under names of their own, none that of the batch."""
    taken = {batch}
    named = []
    for axes, name in groups:
        wish = name or {2: "H", 3: "W"}.get(axes[0].dim, f"{axes[0].value}_{axes[0].dim}")
        while wish in taken:
            wish = f"{wish}_{axes[0].dim}"
        taken.add(wish)
        named.append(Group(wish, axes, samples))
    return tuple(named)
