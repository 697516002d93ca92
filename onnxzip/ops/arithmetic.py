"""Operators on two or more values with numpy broadcasting: `n c h w, c 1 1 -> n c h w`.

An axis of length one that is stretched couples nothing. A sum of computed values commutes with every linear map that is
applied to all of them; a product with a param commutes with scalings of the other factor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from onnxzip.ops.lazy import torch
from onnxzip.ops.reading import aligned, names, present, text
from onnxzip.ops.records import Line, Operator, Symmetry, View
from onnxzip.ops.registry import register


def _equal_and_computed(view: View) -> bool:
    return not any(view.constant) and all(shape == view.outputs[0] for shape in view.inputs)


def _added(view: View) -> Symmetry:
    return Symmetry.LINEAR if _equal_and_computed(view) else Symmetry.PERMUTATION


def _compared(view: View) -> Symmetry:
    return Symmetry.SCALING if _equal_and_computed(view) else Symmetry.PERMUTATION


def _scaled(view: View, positions: tuple[int, ...]) -> Symmetry:
    """A computed factor at one of the positions, of full shape, beside a param."""
    if not any(view.constant[1 - k] and not view.constant[k] and view.inputs[k] == view.outputs[0] for k in positions):
        return Symmetry.PERMUTATION
    scalar = any(all(d == 1 for d in shape) for shape in present(view))
    return Symmetry.LINEAR if scalar else Symmetry.SCALING


def _line(symmetry: Callable[[View], Symmetry]) -> Callable[[View], Line]:
    def line(view: View) -> Line:
        full = view.outputs[0]
        axes = names(len(full))
        return Line(text([aligned(shape, axes, full) for shape in present(view)], [axes]), symmetry=symmetry(view))

    return line


def _mean(*values: Any) -> Any:
    return reduce(torch.add, values) / len(values)


def _pow(x: Any, y: Any) -> Any:
    return torch.pow(x, y).to(x.dtype)


def _div(a: Any, b: Any) -> Any:
    """Integers are cut towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(a: Any, b: Any, *, fmod: int) -> Any:
    """The remainder has the divisor's sign, or with fmod the dividend's."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


_COMPARISONS: dict[str, tuple[Callable[[Any, Any], Any], bool]] = {
    "Equal": (lambda a, b: a == b, True),
    "Greater": (lambda a, b: a > b, False),
    "GreaterOrEqual": (lambda a, b: a >= b, False),
    "Less": (lambda a, b: a < b, False),
    "LessOrEqual": (lambda a, b: a <= b, False),
    "And": (lambda a, b: a & b, True),
    "Or": (lambda a, b: a | b, True),
    "Xor": (lambda a, b: a ^ b, True),
}


_added_line, _compared_line = _line(_added), _line(_compared)
_fixed_line = _line(lambda view: Symmetry.PERMUTATION)

register(Operator("Add", _added_line, lambda a, b: a + b, Symmetry.LINEAR, commutative=True))
register(Operator("Sub", _added_line, lambda a, b: a - b, Symmetry.LINEAR))
register(Operator("Sum", _added_line, lambda *values: reduce(torch.add, values), Symmetry.LINEAR, commutative=True))
register(Operator("Mean", _added_line, _mean, Symmetry.LINEAR, commutative=True))
register(Operator("Mul", _line(lambda view: _scaled(view, (0, 1))), lambda a, b: a * b, Symmetry.LINEAR, commutative=True))
register(Operator("Div", _line(lambda view: _scaled(view, (0,))), _div, Symmetry.LINEAR))
register(Operator("Max", _compared_line, lambda *values: reduce(torch.maximum, values), Symmetry.SCALING, commutative=True))
register(Operator("Min", _compared_line, lambda *values: reduce(torch.minimum, values), Symmetry.SCALING, commutative=True))
register(Operator("Pow", _fixed_line, _pow, Symmetry.PERMUTATION))
register(Operator("Where", _fixed_line, lambda condition, a, b: torch.where(condition, a, b), Symmetry.PERMUTATION))
register(Operator("Mod", _fixed_line, _mod, Symmetry.PERMUTATION))

for _name, (_function, _commutative) in _COMPARISONS.items():
    register(Operator(_name, _fixed_line, _function, Symmetry.PERMUTATION, commutative=_commutative))
