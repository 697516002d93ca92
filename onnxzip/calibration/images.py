"""Images as samples: folders of them, and uint8 arrays; both scaled to 0..1, then (v - mean) / std per channel."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from onnxzip.config import MOST_PIXELS, DataOptions
from onnxzip.errors import InvalidDataError, UsageError
from onnxzip.net import Port

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_BROKEN = (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # SyntaxError: of a PNG
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def image_files(folder: Path, port: Port) -> tuple[Path, ...]:
    """Images below a folder, by name.

    Raises:
        InvalidDataError: there are none, or the input takes no images.
    """
    channel_axis(port, str(folder))
    files = tuple(sorted(images_in(folder)))
    if not files:
        raise InvalidDataError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return files


def images_in(folder: Path) -> Iterator[Path]:
    """Images below a folder, in no order; links to other folders are followed, each of these but once.

    Hidden files are none: beside each image that macOS copies elsewhere lies what else it knows of it (`._cat.png`).
    """
    seen = set[str]()
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [i for i in inner if os.path.realpath(os.path.join(place, i)) not in seen]
        seen.update(os.path.realpath(os.path.join(place, i)) for i in inner)
        shown = (n for n in names if not n.startswith("."))
        yield from (p for p in map(Path(place).joinpath, shown) if p.suffix.lower() in SUFFIXES and p.is_file())


def read_images(files: Sequence[Path], port: Port, options: DataOptions, where: str) -> np.ndarray:
    """Images as uint8 in the layout of an input.

    Raises:
        InvalidDataError: one cannot be read.
    """
    axis = channel_axis(port, where)
    height, width = (s for d, s in enumerate(port.shape) if d not in (0, axis))
    mode = _MODES[port.shape[axis]]
    stacked = np.stack([_read_image(f, mode, (height, width), options.size or min(height, width)) for f in files])
    return stacked if axis == len(port.shape) - 1 else np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


def channel_axis(port: Port, where: str) -> int:
    """Which axis of an input holds the colours.

    Raises:
        InvalidDataError: it takes no images.
    """
    shape = port.shape
    if len(shape) == 4:
        for axis in (1, 3):
            if shape[axis] in _MODES:
                return axis
    raise InvalidDataError(
        f"{where}: input {port.name!r} takes no images: its samples have shape {list(shape[1:])}, "
        "not [C, H, W] with C 1, 3 or 4"
    )


def normalised(images: np.ndarray, port: Port, options: DataOptions) -> np.ndarray:
    """uint8 images as float32: scaled to 0..1, mean taken off, divided by std.

    Raises:
        UsageError: mean or std have another number of channels.
    """
    scaled = images.astype(np.float32) / np.float32(255)
    if not options.mean and not options.std:
        return scaled
    axis = channel_axis(port, "--mean, --std")
    shape = [-1 if d == axis else 1 for d in range(images.ndim)]
    for name, values in (("mean", options.mean), ("std", options.std)):
        if len(values) not in (0, 1, images.shape[axis]):
            raise UsageError(f"--{name} has {len(values)} values, the images have {images.shape[axis]} channels")
    mean = np.asarray(options.mean or (0.0,), np.float32).reshape(shape)
    std = np.asarray(options.std or (1.0,), np.float32).reshape(shape)
    return np.asarray((scaled - mean) / std, np.float32)


def _read_image(path: Path, mode: str, size: tuple[int, int], shorter: int) -> np.ndarray:
    """One image [height, width, channels]: shorter side resized, centre cut out.

    Raises:
        InvalidDataError: it cannot be read, or would become too large.
    """
    height, width = size
    try:
        with Image.open(path) as opened:
            deep, image = opened.mode[:1] in "IF", opened.convert(mode)
    except _BROKEN as error:
        raise InvalidDataError(f"{path}: is no image that can be read. Remove or replace it.") from error
    if deep:
        raise InvalidDataError(f"{path}: has more than 8 bits a pixel and colour. Save it with 8, or give arrays of floats.")
    factor = max(shorter / min(image.size), height / image.height, width / image.width)
    scaled = max(width, round(image.width * factor)), max(height, round(image.height * factor))
    if math.prod(scaled) > MOST_PIXELS**2:
        raise InvalidDataError(
            f"{path}: its {image.width:,} x {image.height:,} pixels would become {scaled[0]:,} x {scaled[1]:,}. Give a "
            "smaller --size, or cut it to a shape more like that of the net's input."
        )
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    array = np.asarray(image.crop((left, top, left + width, top + height)))
    return array.reshape(height, width, -1)
