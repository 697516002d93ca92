"""A net in ONNX Runtime: on the CPU or on a CUDA device, with values that may stay on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime as ort
from onnx import IR_VERSION, TensorProto, defs, helper

from onnxzip.errors import BackendMissingError, UnsupportedError, UsageError
from onnxzip.net import Net, order_in_front, pruned
from onnxzip.runtime.builds import refuse_two_builds
from onnxzip.runtime.lending import has_much_beside, lent_by
from onnxzip.runtime.proto import to_model

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DEVICES = {CPU: "cpu", CUDA: "cuda"}
# TensorFloat-32 keeps 10 bits of the mantissa: moments, and the damping chosen by them, would lose three digits, and a fused
# net that shares nothing would miss the 1e-5 that its verification asks for.
_CUDA_OPTIONS = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
_ERRORS_ONLY, _FATAL_ONLY, _WARNINGS = 3, 4, 2
_KINDS = {"float": "float32", "double": "float64"}
_ORT_ERRORS = tuple(
    kind for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    if (kind := getattr(ort.capi.onnxruntime_pybind11_state, name, None)) is not None
)

Value: TypeAlias = "np.ndarray | ort.OrtValue"


@dataclass(frozen=True)
class Session:
    """A net ready to run.

    Attributes:
        name: of the net.
        provider: ONNX Runtime's execution provider that runs it.
        outputs: names of what it computes.
        axes: input or output -> axis along which the net has the samples, where callers of `run` have them in front.
        fixed: inputs that every run is fed with, none of those that callers know of.
    """

    name: str
    provider: str
    outputs: tuple[str, ...]
    inner: ort.InferenceSession
    axes: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, np.ndarray] = field(default_factory=dict)

    def fixed_at(self, numbers: Mapping[str, int | float | bool]) -> Session:
        """The net with some of its inputs, of one number each, fed by itself."""
        shapes, dtypes = self.shapes(), self.dtypes() if numbers else {}
        fixed = {name: np.full((1,) * len(shapes[name]), number, dtypes[name]) for name, number in numbers.items()}
        return replace(self, fixed={**self.fixed, **fixed})

    @property
    def inputs(self) -> list[ort.NodeArg]:
        """The inputs that callers feed."""
        return [port for port in self.inner.get_inputs() if port.name not in self.fixed]

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""
        return DEVICES[self.provider]

    def dtypes(self) -> dict[str, np.dtype]:
        """Types of the inputs by name.

        Raises:
            UnsupportedError: numpy does not know one.
        """
        found = {}
        for port in self.inputs:
            kind = port.type.removeprefix("tensor(").removesuffix(")")
            try:
                found[port.name] = np.dtype(_KINDS.get(kind, kind))
            except TypeError as error:
                message = f"{self.name}: input {port.name!r} is {port.type}, which numpy does not know"
                raise UnsupportedError(message) from error
        return found

    def shapes(self) -> dict[str, tuple[int | str | None, ...]]:
        """Shapes of the inputs as callers of `run` have them; names, or None, stand for any size."""
        ports = {p.name: p.shape for p in self.inputs}
        return {name: tuple(d[k] for k in order_in_front(len(d), self.axes.get(name, 0))) for name, d in ports.items()}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs for the given inputs, by name.

        Raises:
            UnsupportedError: ONNX Runtime gives up on them.
        """
        silent = ort.RunOptions()  # what goes wrong is told by the error
        silent.log_severity_level = _FATAL_ONLY
        try:
            given = {name: np.moveaxis(a, 0, self.axes[name]) if name in self.axes else a for name, a in feeds.items()}
            found = dict(zip(self.outputs, self.inner.run(list(self.outputs), {**given, **self.fixed}, silent), strict=True))
        except _ORT_ERRORS as error:
            raise _failed(f"failed in the net {self.name!r}", error) from error
        return {name: np.moveaxis(a, self.axes[name], 0) if name in self.axes else a for name, a in found.items()}

    def run_bound(self, feeds: Mapping[str, Value], keep: Iterable[str] = ()) -> dict[str, Value]:
        """As `run`; feeds may live on the device, and outputs in `keep` stay there as OrtValues.

        Raises:
            UnsupportedError: ONNX Runtime gives up on them.
        """
        kept = set(keep)
        binding = self.inner.io_binding()
        alive = []
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), "cpu")
            alive.append(value)
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self.device if name in kept else "cpu")
        try:
            binding.synchronize_inputs()
            self.inner.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except _ORT_ERRORS as error:
            raise _failed(f"failed in the net {self.name!r}", error) from error
        values = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        return {name: value if name in kept else value.numpy() for name, value in values.items()}


def open_session(net: Net, device: str = "auto", threads: int = 0, outputs: Iterable[str] | None = None) -> Session:
    """Put a net into ONNX Runtime.

    Args:
        net: a canonical net.
        device: `cpu`; `cuda`; `auto` for CUDA where it can be had.
        threads: of one operator; 0 lets ONNX Runtime choose.
        outputs: which of the net's outputs to compute; None for all.

    Raises:
        UsageError: no such device.
        BackendMissingError: CUDA was asked for and cannot be had, or two builds of ONNX Runtime shut each other out.
        UnsupportedError: ONNX Runtime cannot run the net.
    """
    provider = provider_for(device)
    wanted = net if outputs is None else pruned(net, outputs)
    lent = lent_by(wanted)
    model = to_model(wanted, lent.offsets, lent.file.name if lent.file is not None else "")
    content = model.SerializeToString(deterministic=True)
    del model  # its weights need not wait beside the session's own
    folder = lent.file.parent if lent.file is not None else None
    inner = _opened(net.name, content, provider, threads, folder, lent.file is not None)
    return Session(net.name, provider, tuple(p.name for p in wanted.outputs), inner)


def open_bytes(name: str, content: bytes, outputs: tuple[str, ...], device: str = "auto", threads: int = 0) -> Session:
    """Put a serialised graph into ONNX Runtime.

    Args:
        name: for messages.
        content: the model.
        outputs: their names.
        device, threads: as in `open_session`.

    Raises:
        UsageError, BackendMissingError, UnsupportedError: as `open_session`.
    """
    provider = provider_for(device)
    return Session(name, provider, outputs, _opened(name, content, provider, threads))


def provider_for(device: str) -> str:
    """ONNX Runtime's provider for a device.

    Raises:
        UsageError: no such device.
        BackendMissingError: CUDA was asked for and cannot be had, or two builds of ONNX Runtime shut each other out.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {device!r} is not known; use auto, cpu or cuda")
    refuse_two_builds()
    if device == "cuda" and not cuda_works():
        raise BackendMissingError(
            "device cuda: ONNX Runtime cannot use a CUDA device here "
            f"(it offers {', '.join(ort.get_available_providers())}). "
            "Install onnxruntime-gpu with the CUDA and cuDNN libraries it was built for, or use --device cpu."
        )
    return CUDA if device != "cpu" and cuda_works() else CPU


def open_file(
    name: str, model: Path | bytes, device: str = "auto", threads: int = 0, folder: Path | None = None
) -> Session:
    """Put a model as it stands in a file into ONNX Runtime.

    Args:
        name: for messages.
        model: the file, or what is in it.
        device, threads: as in `open_session`.
        folder: of what is in a file, where its params lie beside it.

    Raises:
        UsageError, BackendMissingError, UnsupportedError: as `open_session`.
    """
    provider, content = provider_for(device), model if isinstance(model, bytes) else str(model)
    where = folder if isinstance(model, bytes) else None  # ONNX Runtime itself looks beside a file
    mapped = (isinstance(model, Path) or where is not None) and has_much_beside(model)
    inner = _opened(name, content, provider, threads, where, mapped)
    return Session(name, provider, tuple(p.name for p in inner.get_outputs()), inner)


@contextmanager
def quiet() -> Iterator[None]:
    """ONNX Runtime prints nothing below an error meanwhile, whoever opens a session."""
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)


@lru_cache(maxsize=1)
def newest_versions() -> tuple[int, int]:
    """The newest opset and the newest IR version that the installed ONNX Runtime takes."""
    opset = next(v for v in range(defs.onnx_opset_version(), 6, -1) if _takes(v, 8))
    return opset, next(v for v in range(IR_VERSION, 2, -1) if _takes(13, v))


@lru_cache(maxsize=1)
def cuda_works() -> bool:
    """Whether a session on a CUDA device can be opened: the provider may be built in and its libraries missing."""
    if CUDA not in ort.get_available_providers():
        return False
    with quiet():
        session = ort.InferenceSession(_probe(13, 8), _options(0, _FATAL_ONLY), providers=[CUDA, CPU])
    return CUDA in session.get_providers()


def _opened(
    name: str, model: bytes | str, provider: str, threads: int, folder: Path | None = None, mapped: bool = False
) -> ort.InferenceSession:
    """A session.

    Args:
        folder: of params that lie beside what is in a file.
        mapped: whether they are many, and are not to be copied.
    """
    providers = [CPU] if provider == CPU else [(CUDA, _CUDA_OPTIONS), CPU]
    options = _options(threads, _ERRORS_ONLY)
    if mapped:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC  # beyond it weights are laid out anew
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except _ORT_ERRORS as error:
        raise _failed(f"cannot run the net {name!r}", error) from error


def _options(threads: int, severity: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = threads
    # An arena rounds up to powers of two, and one output that is kept keeps all of it: 1.0 GB of ResNet-50's activations were
    # seen to take 1.7 GB. Without it a run takes 2.5 % longer.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _probe(opset: int, ir_version: int) -> bytes:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", ports[:1], ports[1:])
    imports = [helper.make_opsetid("", opset)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=ir_version).SerializeToString())


def _takes(opset: int, ir_version: int) -> bool:
    try:
        ort.InferenceSession(_probe(opset, ir_version), _options(1, _FATAL_ONLY), providers=[CPU])
    except _ORT_ERRORS:
        return False
    return True


def _failed(what: str, error: Exception) -> UnsupportedError:
    return UnsupportedError(f"ONNX Runtime {ort.__version__} {what}: {' '.join(str(error).split())[:400]}")
