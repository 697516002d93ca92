"""What is asked of `export`, checked before long work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxzip.calibration.reading import files_of
from onnxzip.config import ExportOptions
from onnxzip.errors import UsageError
from onnxzip.exporting.write import check_unread, check_writable
from onnxzip.shipping.records import PROGRAM, Target
from onnxzip.shipping.targets import known_targets
from onnxzip.values import nearest


def find_target(name: str) -> Target:
    """A target by name.

    Raises:
        UsageError: there is none.
    """
    known = known_targets()
    if name not in known:
        near = nearest(name, known)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"target {name!r} is not known{hint} (targets: {', '.join(known)})")
    return known[name]


def check_request(
    target: Target, fused: Path, output: Path, options: ExportOptions, data: Any, force: bool, others: Sequence[Path] = ()
) -> None:
    """Refuse what the target cannot do, and what could not be written in the end, or is read.

    Args:
        others: files that are read besides the fused net and the data.

    Raises:
        UsageError: saying what to do instead.
    """
    if output.suffix != target.suffix:
        wanted = output.with_suffix(target.suffix)
        raise UsageError(f"{output}: target {target.name} writes a {target.suffix}; use -o {wanted}")
    batch = options.static_batch
    if batch is not None and target.batches is not None and batch not in target.batches:
        allowed = ", ".join(map(str, target.batches))
        raise UsageError(f"--static-batch {batch}: target {target.name} takes {allowed} samples at once only")
    if options.opset is not None and target.source == PROGRAM:
        raise UsageError(f"--opset {options.opset}: target {target.name} holds no ONNX; leave --opset out")
    if options.quantize and not target.quantizes:
        able = ", ".join(t.name for t in known_targets().values() if t.quantizes)
        raise UsageError(f"--quantize: target {target.name} cannot take ONNX Runtime's int8 nets ({able} can)")
    if options.quantize and data is None:
        raise UsageError("--quantize needs --data: samples that show how large activations become")
    given = data.values() if isinstance(data, Mapping) else [data]
    read = [*others, *(file for item in given for file in files_of(item))]
    for path in target.files(output):
        _check_place(path, target, force)
        check_unread([path, *path.rglob("*")], [fused], read)


def _check_place(path: Path, target: Target, force: bool) -> None:
    """Refuse what is in the way; a folder is replaced only where it is one of the target's."""
    if not (target.folder and path.suffix == target.suffix and (path / target.folder).is_file()):
        check_writable(path, force)
    elif not force:
        raise UsageError(f"{path}: exists already. Use --force to replace it.")
