"""A net as a torch module: one Parameter per float param under its name, and a forward that runs the operators' functions.

    module = read_module(Path("net.onnx"))       module.forward(x)        {output: tensor}
    write_params(module)                         the same file with the module's params

What a module trains is what its file stores: nothing is folded, so that every param goes back by its name. Params that are no
weights (running statistics, exponents, single numbers, masks) are Parameters without a gradient; whoever wants one
asks for it by `requires_grad_`. Nets of half types are computed in float32 and written in their own type. `train()` and
`eval()` change nothing: a net is what its file computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from onnxzip.errors import InvalidModelError, UnsupportedError, UsageError
from onnxzip.loading.faithful import read_faithfully
from onnxzip.loading.freeing import differing, is_fixed
from onnxzip.loading.stored import replaced
from onnxzip.net import BATCH, Port, order_in_file, rows_per_sample
from onnxzip.ops.evaluate import Watch
from onnxzip.retraining.keys import keys_of
from onnxzip.retraining.reading import Reading

_HALVES = (torch.float16, torch.bfloat16)


class TorchNet(nn.Module):
    """An ONNX net in torch.

    Attributes:
        inputs, outputs: ports of the net, in the file's order; -1 in a shape is the batch.
        metadata: the file's metadata_props.
        keys: ONNX name of every param -> its key in `state_dict` and `named_parameters`: the name itself, unless torch
            refuses it (see `onnxzip.retraining.keys`).
    """

    def __init__(self, reading: Reading) -> None:
        """Take the params of a reading; see `read_module`."""
        super().__init__()
        self.reading = reading
        net = reading.net
        self.inputs: tuple[Port, ...] = tuple(p.in_file for p in net.inputs)
        self.outputs: tuple[Port, ...] = tuple(p.in_file for p in net.outputs)
        self.metadata: dict[str, str] = dict(net.metadata)
        self._watch: Watch | None = None
        self._all_outputs = tuple(p.name for p in net.outputs)
        trainable = reading.faithful.trainable
        self._constants = {v: f"_constant_{k}" for k, v in enumerate(net.params) if v not in trainable}
        for name, buffer in self._constants.items():
            self.register_buffer(buffer, torch.tensor(net.params[name]), persistent=False)
        self.keys: dict[str, str] = {}
        self.keys |= keys_of(trainable, self)
        self._paths = {name: key.split(".") for name, key in self.keys.items()}
        for name, path in self._paths.items():
            owner: nn.Module = self
            for part in path[:-1]:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            array = torch.tensor(net.params[name])
            owner.register_parameter(path[-1], nn.Parameter(array, requires_grad=name not in reading.faithful.frozen))

    def forward(self, *inputs: Tensor, **by_name: Tensor) -> dict[str, Tensor]:
        """All outputs by name, for inputs in the net's order or by name; of any number of samples (see `compute_all`).

        Raises:
            UsageError: an input is missing or has another shape than the net's, or the net has no such input.
        """
        names = [p.name for p in self.inputs]
        feeds = dict(zip(names, inputs, strict=False)) | by_name
        if len(inputs) > len(names) or not feeds.keys() <= set(names):
            given = f"{len(inputs)} inputs by position" + (f" and {', '.join(by_name)} by name" if by_name else "")
            raise UsageError(f"net {self.reading.net.name!r} has the inputs {', '.join(names)}; it was given {given}.")
        axes = {p.name: p.axis for p in (*self.inputs, *self.outputs) if p.axis}
        front = {name: x.movedim(axes[name], 0) if axes.get(name, x.ndim) < x.ndim else x for name, x in feeds.items()}
        found = self.compute_all(front, self._all_outputs)
        return {name: y.movedim(0, axes[name]) if name in axes else y for name, y in found.items()}

    def compute(self, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """Some outputs by name; only what they need is run, and only the inputs that they need must be there. Samples are the
        first axis of all of them, wherever the file has them.

        Raises:
            UsageError: the net has no such output, or an input is missing.
        """
        sizes = self.reading.sizes_of(feeds)
        program = self.reading.program(outputs, sizes)
        usual = sizes == self.reading.usual
        given: dict[str, Tensor] = {}
        for name in program.given:
            if name in self._paths:
                given[name] = self._param(name)
            elif name in self._constants and usual:
                given[name] = getattr(self, self._constants[name])
            elif name in self.reading.net_at(sizes).params:  # constants may follow the size
                given[name] = torch.tensor(self.reading.net_at(sizes).params[name], device=next(iter(feeds.values())).device)
            elif name in feeds:
                given[name] = feeds[name].float() if feeds[name].dtype in _HALVES else feeds[name]
            else:
                raise UsageError(f"net {self.reading.net.name!r} needs its input {name!r}, which was not given.")
        found = program.run(given, self._watch)
        return {name: found[name] for name in outputs}

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Whatever is computed meanwhile, each node is shown with what it has read and written."""
        self._watch = watch
        try:
            yield
        finally:
            self._watch = None

    def compute_all(self, feeds: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """As `compute`, for any number of samples: a net with a fixed batch runs on as many at a time, the last one repeated
        where they do not come out even, and what it says stands one behind the other as if it had taken them at once.

        An output without rows of samples has one row for each portion.

        Raises:
            UsageError: as `compute`, or an input has another shape than the net's.
        """
        size, count = self.batch, self._count(feeds)
        if count is None or count == size:
            return self.compute(feeds, outputs)
        portions = []
        for start in range(0, count, size):
            index = torch.arange(start, start + size, device=next(iter(feeds.values())).device).clamp_max(count - 1)
            portions.append(self.compute({name: x[index] for name, x in feeds.items()}, outputs))
        return {name: _joined([p[name] for p in portions], size, count) for name in outputs}

    def _count(self, feeds: Mapping[str, Tensor]) -> int | None:
        """How many samples there are, of a net that takes a fixed number; None for every other one.

        Raises:
            UsageError: an input has another shape than the net's, or other samples than the first one.
        """
        ports = self.reading.net.inputs
        fixed = all(p.shape[:1] == (self.batch,) for p in ports) and self.batch != BATCH
        counts = set()
        for port in (p for p in ports if p.name in feeds):
            have = tuple(feeds[port.name].shape)
            free = {d for d, n in enumerate(port.shape) if n < 0} | {a.dim for a in self.reading.free if a.value == port.name}
            free |= {0} if fixed else set()
            if len(have) != len(port.shape) or any(have[d] != n for d, n in enumerate(port.shape) if d not in free):
                order = order_in_file(len(port.shape), port.axis)
                listed = ", ".join("any" if d in free else str(port.shape[d]) for d in order)
                given = [have[d] for d in order] if len(have) == len(order) else list(have)
                raise UsageError(
                    f"net {self.reading.net.name!r}: input {port.name!r} takes the shape [{listed}], was given {given}."
                )
            counts.add(have[0] if fixed else self.batch)
        if fixed and len(counts) > 1:
            listed = " and ".join(map(str, sorted(counts)))
            raise UsageError(f"net {self.reading.net.name!r}: its inputs were given {listed} samples: give all as many.")
        return counts.pop() if fixed and counts else None

    @property
    def batch(self) -> int:
        """Samples that the net takes at once; -1 for any number."""
        return self.reading.net.inputs[0].shape[0]

    def params(self) -> dict[str, nn.Parameter]:
        """Every Parameter by its ONNX name."""
        return {name: self._param(name) for name in self._paths}

    def extra_repr(self) -> str:
        """The net's name and ports."""
        ports = ", ".join(p.name for p in self.inputs), ", ".join(p.name for p in self.outputs)
        return f"{self.reading.net.name}: {ports[0]} -> {ports[1]}"

    def _param(self, name: str) -> nn.Parameter:
        """Looked up whenever it is read: whoever traces or wraps a module puts other tensors in its place."""
        found: Any = self
        for part in self._paths[name]:
            found = getattr(found, part)
        return cast("nn.Parameter", found)


def read_module(content: bytes | Path) -> TorchNet:
    """An ONNX file, or what is in one, as a torch module.

    Raises:
        InvalidModelError: it is no valid ONNX net.
        UnsupportedError: operators in it have no torch function; all of them are named.
    """
    return TorchNet(Reading(read_faithfully(content)))


def _joined(portions: Sequence[Tensor], size: int, count: int) -> Tensor:
    """What portions of a size say of so many samples."""
    rows = rows_per_sample(tuple(portions[0].shape), size)
    return torch.cat(list(portions))[: rows * count] if rows else torch.stack(list(portions))


def read_for_batches(content: bytes | Path) -> TorchNet:
    """As `read_module`; a net for one sample as one for any number, where that gives the same for several as for each.

    Raises:
        InvalidModelError, UnsupportedError: as `read_module`.
    """
    faithful = read_faithfully(content)
    if not is_fixed(faithful.net):
        return TorchNet(Reading(faithful))
    try:
        free = read_faithfully(content, any_batch=True)
        differs = differing(faithful.net, free.net)
    except (InvalidModelError, UnsupportedError):  # it is for one sample, then, which is no fault of the file's
        return TorchNet(Reading(faithful))
    return TorchNet(Reading(free, any_batch=True) if differs is None else Reading(faithful))


def write_params(module: TorchNet, into: bytes | None = None) -> bytes:
    """The file that the module was read from, with the module's params in it.

    Args:
        into: another file with the same params, which is given them instead.

    Only params whose values have changed are touched, each in the type and the encoding that it has in the file. What lay in
    external data stands inside.

    Raises:
        UsageError: a param has another shape than the file's.
        InvalidDataError: a param is NaN or infinite where it was not in the file, or too large for its type.
    """
    arrays = {}
    for name, parameter in module.params().items():
        before = module.reading.net.params[name]
        wide = torch.float64 if before.dtype == np.float64 else torch.float32
        array = parameter.detach().to("cpu", wide).numpy()
        if array.shape != before.shape:
            raise UsageError(f"param {name!r} has the shape {list(array.shape)}; in the file it has {list(before.shape)}.")
        arrays[name] = array
    return replaced(module.reading.faithful.content if into is None else into, arrays)
