"""Runs a target's functions in a process of their own: `python worker.py probe PACKAGE...` or `... VERB TARGET FOLDER`.

The Python may be another one than onnxzip's, without onnxzip's packages: of onnxzip only the modules of targets are loaded.

probe      stdout: JSON, package -> version, or null where it is missing
convert    FOLDER/job.json -> the target's files; FOLDER/names.json: the runtime's names
run        FOLDER/job.json, feeds.npz -> found.npz
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

JOB, NAMES, FEEDS, FOUND = "job.json", "names.json", "feeds.npz", "found.npz"
NOT_IMPORTABLE = 4  # exit code: a package is there, and cannot be imported
ROOT = Path(__file__).parent.parent


def work(verb: str, name: str, folder: Path) -> None:
    """Do what the command line says."""
    import numpy as np

    from onnxzip.shipping.records import Job
    from onnxzip.shipping.targets import known_targets

    target, job = known_targets()[name], Job.from_json(json.loads((folder / JOB).read_text(encoding="utf-8")))
    if verb == "convert":
        (folder / NAMES).write_text(json.dumps(dict(target.convert(job))), encoding="utf-8")
        return
    assert target.run is not None
    with np.load(folder / FEEDS) as feeds:
        outputs = target.run(job, dict(feeds))
    found = {f"output {k}": outputs[t.name] for k, t in enumerate(job.outputs)}
    np.savez(folder / FOUND, allow_pickle=False, **found)


def probe(modules: Sequence[str]) -> None:
    """Tell the versions of some packages; none of them is imported."""
    installed = metadata.packages_distributions()
    sys.stdout.write(json.dumps({module: _version(module, installed) for module in modules}))


def _version(module: str, installed: Mapping[str, list[str]]) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    return metadata.version(installed[module][0]) if module in installed else "unknown"


def _without_the_rest_of_onnxzip() -> None:
    """`onnxzip` as a package that is only a folder, and this folder no place to import from."""
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).parent.resolve()]
    package = ModuleType("onnxzip")
    package.__path__ = [str(ROOT)]
    sys.modules["onnxzip"] = package


if __name__ == "__main__":
    _without_the_rest_of_onnxzip()
    try:
        if sys.argv[1] == "probe":
            probe(sys.argv[2:])
        else:
            work(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except ImportError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(NOT_IMPORTABLE)
