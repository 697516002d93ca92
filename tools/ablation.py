"""The zip with one part taken away or exchanged at a time: methods of their own, for the benchmark alone."""

from __future__ import annotations

from dataclasses import replace

from onnxzip.matching.importance import equal
from onnxzip.matching.methods import METHODS, ZIP, Rows

LABELS = {
    "zip-mean": "shared channels follow the mean of their originals, not one of them",
    "zip-targets": "targets: the original rows applied to the fused inputs, not the original pre-activations",
    "zip-inputs": "inputs: what the original nets compute, not the fused one",
    "zip-refit": "own rows and heads are left as they were",
    "zip-damping": "damping fixed at 1e-6 of the mean diagonal, not chosen on held-out rows",
    "zip-fixed": "damping fixed at 1e-2 of the mean diagonal, where most layers end",
    "zip-unranked": "the first channels of each net are kept, not those that tell most of the others",
    "zip-importance": "all channels' errors count alike where these are chosen",
    "zip-rectify": "fits do not look through the activation behind them",
    "zip-skips": "a branch does not repair its skip",
    "zip-unturned": "linear streams are shared channel by channel, not along their principal axes",
}
ABLATIONS = {
    m.name: m
    for m in (
        replace(ZIP, name="zip-mean", follow=False),
        replace(ZIP, name="zip-targets", original_targets=False),
        replace(ZIP, name="zip-inputs", rows=Rows.ORIGINAL, rectify=False),
        replace(ZIP, name="zip-refit", refit=False),
        replace(ZIP, name="zip-damping", grid=(1e-6,)),
        replace(ZIP, name="zip-fixed", grid=(1e-2,)),
        replace(ZIP, name="zip-unranked", rank=False),
        replace(ZIP, name="zip-importance", importance=equal),
        replace(ZIP, name="zip-rectify", rectify=False),
        replace(ZIP, name="zip-skips", repair_skips=False),
        replace(ZIP, name="zip-unturned", turn=False),
    )
}


def make_known() -> None:
    """Let `onnxzip.merge` find these methods by name."""
    METHODS.update(ABLATIONS)
