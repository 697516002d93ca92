"""Where a task of a fused net comes from, and how its samples and outputs stand in either net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnxzip.calibration.rows import in_order
from onnxzip.exporting.returned import Returned
from onnxzip.loading.fixing import Fixed
from onnxzip.net.classes import VALUES


@dataclass(frozen=True)
class Origin:
    """Where a task comes from.

    Attributes:
        source: name of the original file.
        sha256: of the original file.
        inputs: input of the fused net -> the original's.
        outputs: output of the original -> the fused net's.
        params, bytes, macs: size of the original; None in files of schema 1.
        entries, fields: entry of the original's metadata_props, or field of its model, where not all tasks have the same
            -> the entry of the fused file that holds it.
        features: outputs of the original that are no classes, though a layer of the task's own makes them look like some.
        before_tail: value of the original that its tail reads -> the fused net's.
        axes: input or output of the original -> axis along which it has the samples, where that is not the first.
        states: input of the original that is a state of units which others share -> how these stand.
        fixed: input of the original that is a constant of the fused net -> its number.
    """

    source: str
    sha256: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    params: int | None = None
    bytes: int | None = None
    macs: int | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    features: Sequence[str] = ()
    before_tail: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, Returned] = field(default_factory=dict)
    fixed: Fixed = field(default_factory=dict)

    @cached_property
    def places(self) -> Mapping[str, np.ndarray]:
        """Input or output of the original that is such a state -> for each number of a sample as the fused net has it, which
        one of the original's it is."""
        found = {name: state.places for name, state in self.states.items()}
        return found | {output: found[name] for name, state in self.states.items() for output in state.outputs}

    def asked(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Samples of this task as the fused net is fed with them: states in the order of its own units."""
        own = {fused: self.places[name] for fused, name in self.inputs.items() if name in self.states}
        return {name: in_order(a, own[name]) if name in own else a for name, a in feeds.items()}

    @property
    def compared(self) -> dict[str, str]:
        """Outputs without states of shared units: nobody but these asks what they hold."""
        return {name: fused for name, fused in self.outputs.items() if name not in self.places}

    def said(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the original says, by its own names, as the fused net says it."""
        return {name: in_order(a, self.places[name]) if name in self.places else a for name, a in outputs.items()}

    def fed(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the original is fed with, of what the fused net is."""
        return {own: feeds[fused] for fused, own in self.inputs.items() if fused in feeds}

    def kinds(self, given: Mapping[str, str]) -> dict[str, str]:
        """What outputs of the fused net are said to be: features values, unless the user says otherwise."""
        return {**dict.fromkeys((self.outputs[name] for name in self.features), VALUES), **given}
