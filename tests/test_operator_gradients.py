"""The gradient of every operator's torch function is the slope of its values, against finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from operator_samples import Sample
from operator_samples_shaped import SAMPLES
from test_torch_module import feeds_for, model

from onnxzip.ops import find, registered
from onnxzip.retraining.module import read_module

# operators that finite differences say nothing of
WITHOUT = {
    "Hardmax": "a choice", "Cast": "to float32, which is too coarse for finite differences", "MaxRoiPool": "rounded regions",
    **dict.fromkeys(("And", "Not", "Or", "Xor"), "truth values"),
}
Tensors = tuple[torch.Tensor, ...]


def record(op: str) -> Callable[..., Any]:
    """An operator's torch function."""
    operator = find(op)
    assert operator is not None
    return operator.torch


def arguments(sample: Sample) -> list[torch.Tensor | None]:
    """Inputs in float64; integers stay. All numbers of an input differ, so that no maximum is shared."""
    found: list[torch.Tensor | None] = []
    for array in sample.arrays(2):
        tensor = None if array is None else torch.from_numpy(np.array(array))
        if tensor is not None and tensor.is_floating_point():
            tensor = tensor.double().requires_grad_()
        found.append(tensor)
    return found


def function(sample: Sample, given: list[torch.Tensor | None]) -> Callable[..., Tensors]:
    """The operator as a function of those inputs that have a gradient; its outputs that have one."""
    free = [k for k, x in enumerate(given) if x is not None and x.requires_grad]

    def run(*values: torch.Tensor) -> Tensors:
        everything = dict(enumerate(given)) | dict(zip(free, values, strict=True))
        result = sample.operator.torch(*everything.values(), **sample.keywords(sample.full_attrs))
        results = result if isinstance(result, (tuple, list)) else (result,)
        return tuple(r for r in results[: sample.outputs] if r.is_floating_point())

    return run


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op not in WITHOUT], ids=str)
def test_gradients_are_slopes(sample: Sample) -> None:
    given = arguments(sample)
    inputs = tuple(x for x in given if x is not None and x.requires_grad)
    assert inputs
    assert torch.autograd.gradcheck(function(sample, given), inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_those_left_out_have_no_gradient_or_pass_it_on() -> None:
    assert WITHOUT.keys() <= {o.name for o in registered()}
    x = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert not record("Hardmax")(x, axis=1).requires_grad
    record("Cast")(x, to=1).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))


def test_frozen_statistics_take_another_way_to_the_same_gradient() -> None:
    """torch's own batch_norm, which the formula steps in for where the statistics want a gradient."""
    normalise = record("BatchNormalization")
    rng = np.random.default_rng(0)
    x, weight, bias, mean = (torch.from_numpy(rng.standard_normal(s)) for s in ((5, 3, 2), 3, 3, 3))
    variance = torch.from_numpy(rng.uniform(0.5, 2.0, 3))
    inputs = tuple(v.requires_grad_() for v in (x, weight, bias))
    plain = normalise(*inputs, mean, variance, epsilon=1e-3)
    formula = normalise(*inputs, mean.clone().requires_grad_(), variance, epsilon=1e-3)
    torch.testing.assert_close(plain, formula)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (plain, formula)), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda *v: normalise(*v, mean.detach(), variance, epsilon=1e-3), inputs)


@pytest.mark.parametrize("bound", [0.0, 6.0])
def test_a_clip_passes_no_gradient_beyond_its_bounds(bound: float) -> None:
    x = torch.tensor([bound - 1, bound + 1], requires_grad=True)
    record("Clip")(x, min=0.0, max=6.0).sum().backward()
    assert x.grad.tolist() == ([0.0, 1.0] if bound == 0 else [1.0, 0.0])


NETS = {
    "conv": """net (float[N,2,5,5] x, float[3,2,3,3] w, float[3] b, float[3] s, float[3] t, float[3] m, float[3] v,
        float[4,12] g) => (float[N,4] y, float[N,3,5,5] z) {
        a = Conv <pads = [1,1,1,1]> (x, w, b)
        n = BatchNormalization (a, s, t, m, v)
        z = Tanh (n)
        c = AveragePool <kernel_shape = [2,2], strides = [2,2]> (z)
        f = Flatten (c)
        y = Gemm <transB = 1> (f, g)
    }""",
    "attention": """net (float[N,3,4] x, float[4,4] q, float[4,4] k, float[4] s, float[4] t) => (float[N,3,4] y) {
        a = MatMul (x, q)
        b = MatMul (x, k)
        bt = Transpose <perm = [0, 2, 1]> (b)
        l = MatMul (a, bt)
        p = Softmax <axis = -1> (l)
        o = MatMul (p, x)
        h = LayerNormalization (o, s, t)
        y = Add (h, x)
    }""",
}


@pytest.mark.parametrize("name", sorted(NETS))
def test_gradients_of_whole_nets(name: str, tmp_path: Path) -> None:
    module = read_module(model(NETS[name], tmp_path, v=np.full(3, 0.7, np.float32))).double().requires_grad_(True)
    feeds = {k: x.double() for k, x in feeds_for(module, 2).items()}
    names, values = zip(*module.named_parameters(), strict=True)

    def outputs(*given: torch.Tensor) -> Tensors:
        found = torch.func.functional_call(module, dict(zip(names, given, strict=True)), (), feeds)
        return tuple(found.values())

    assert torch.autograd.gradcheck(
        outputs, tuple(v.detach().requires_grad_() for v in values), eps=1e-6, atol=1e-5, rtol=1e-4
    )
