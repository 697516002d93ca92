"""Trials: two forms of one net are run on the same samples, and a difference ends the work.

error of an output = max |found - wanted| / max |wanted|, over all samples; the same infinite number in both is no difference

What lies between -1 and 1 by the operator that makes it (Sigmoid) is rounded as numbers near 1 are, however small it is: of
such outputs max |wanted| counts as `LEAST` at least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from onnxzip.errors import VerificationError
from onnxzip.loading.stored import step_of
from onnxzip.net import Port, bind_batch
from onnxzip.runtime import Session

TRIALS = 8  # samples, where the net takes any number of them
SAME = 1e-5  # of two graphs of the same numbers in one runtime: it may add them up in another order
TINY, LEAST = float(np.finfo(np.float32).tiny), 0.1


def trial_feeds(ports: Iterable[Port], rng: np.random.Generator, samples: int) -> dict[str, np.ndarray]:
    """Inputs for a trial: normal noise where floats are read; 0 and 1 elsewhere, which are indices and masks of any net."""
    found = {}
    for port in ports:
        shape = bind_batch(port.shape, samples)
        drawn = rng.standard_normal(shape) if port.dtype.kind == "f" else rng.integers(0, 2, shape)
        found[port.name] = np.asarray(drawn).astype(port.dtype)
    return found


def check_other_size(free: Session, planned: Session, ports: Iterable[Port], bounded: Collection[str]) -> None:
    """Run a fused net that takes any size at another size than it was calibrated at.

    Args:
        free: the net; planned: the net with the same params, planned for that size.
        ports: inputs of that size.
        bounded: outputs that lie between -1 and 1.

    Raises:
        VerificationError: they compute something else. Values that are no numbers are not compared.
    """
    feeds = trial_feeds(ports, np.random.default_rng(0), 2)
    wanted, found = planned.run(feeds), free.run(feeds)
    sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
    finite = {k: v for k, v in wanted.items() if np.isfinite(v).all()}
    check_alike(f"the fused net at another size ({sizes})", found, finite, bounded=bounded)


def error_of(found: np.ndarray, wanted: np.ndarray, least: float = TINY) -> float:
    """Largest deviation over the largest wanted magnitude; infinite where it is not a number, or a text is another one.

    Args:
        least: what that magnitude counts as at least.
    """
    if not wanted.size:
        return 0.0
    if wanted.dtype.kind in "OSU":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    a, b = in_numbers(found, wanted)
    finite = np.abs(b[np.isfinite(b)])
    error = float(np.abs(a - b).max() / max(float(finite.max(initial=0.0)), least))
    return error if np.isfinite(error) else float("inf")


def in_numbers(found: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two outputs in float64, 0 where both have the same infinite number (of logits that a net masks)."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    same = np.isinf(a) & (a == b)
    return (np.where(same, 0.0, a), np.where(same, 0.0, b)) if same.any() else (a, b)


def check_alike(
    what: str, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float = SAME,
    bounded: Collection[str] = (),
) -> dict[str, float]:
    """The error of every wanted output.

    Args:
        what: is checked, for messages.
        found, wanted: outputs by name.
        bounded: those that lie between -1 and 1.

    Raises:
        VerificationError: an output is missing, has another shape, or an error above the tolerance; one of float16 may be
            off by a unit in its last place on top.
    """
    errors = {}
    for name, array in wanted.items():
        if name not in found:
            raise VerificationError(f"{what}: has no output {name!r}. Nothing was written.")
        if found[name].shape != array.shape:
            raise VerificationError(
                f"{what}: output {name!r} has the shape {list(found[name].shape)}, the fused net's {list(array.shape)}. "
                "Nothing was written."
            )
        errors[name] = error_of(found[name], array, LEAST if name in bounded else TINY)
        allowed = tolerance + step_of(array.dtype)
        if not errors[name] <= allowed:
            raise VerificationError(
                f"{what}: output {name!r} is off by {errors[name]:.3g} of its largest value in the fused net "
                f"(allowed: {allowed:g}). Nothing was written."
            )
    return errors
