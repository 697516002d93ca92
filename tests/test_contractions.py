"""Einsums of a value and a param that are layers load as products of matrices, and compute what they did."""

from __future__ import annotations

from pathlib import Path

import pytest
from netfiles import loaded, ops, written

LAYERS = {  # equation: shapes of value, param, output, bias
    "nc,cd->nd": ("N, 6", "6, 4", "N, 4", "4"),
    "ntc,cde->ntde": ("N, 5, 6", "6, 2, 4", "N, 5, 2, 4", "2, 4"),
    "ntde,def->ntf": ("N, 5, 2, 3", "2, 3, 4", "N, 5, 4", "4"),
    "...c,dc->...d": ("N, 5, 6", "4, 6", "N, 5, 4", "4"),
    "nid,iod->no": ("N, 3, 4", "3, 5, 4", "N, 5", "5"),
    "nct,cd->ndt": ("N, 6, 5", "6, 4", "N, 4, 5", "4, 1"),
    "ntc,c->nt": ("N, 5, 6", "6", "N, 5", "5"),
    "cd,nc->nd": ("N, 6", "6, 4", "N, 4", "4"),
    "nc,ecd->end": ("N, 6", "3, 6, 4", "3, N, 4", "4"),
}
OTHERS = {
    "nct,cdt->ndt": ("N, 6, 5", "6, 4, 5", "N, 4, 5"),  # a matrix for each position
    "ntc,cd->nd": ("N, 5, 6", "6, 4", "N, 4"),  # sums over positions, too
    "nc,cd->n": ("N, 6", "6, 4", "N"),
    "nc,d->ncd": ("N, 6", "4", "N, 6, 4"),  # sums over nothing
}


def file_of(folder: Path, equation: str, value: str, weight: str, made: str, bias: str | None) -> Path:
    operands = "w, x" if equation.startswith("cd,n") else "x, w"
    add = f", float[{bias}] b" if bias else ""
    last = "e = Add(z, b)" if bias else "e = Identity(z)"
    return written(
        folder, f"g (float[{value}] x, float[{weight}] w{add}) => (float[{made}] y)"
        f' {{ z = Einsum <equation = "{equation}"> ({operands}) {last} y = Tanh(e) }}',
    )


@pytest.mark.parametrize("equation", LAYERS)
def test_layers_are_products_of_matrices(equation: str, tmp_path: Path) -> None:
    net = loaded(file_of(tmp_path, equation, *LAYERS[equation]))
    found = ops(net)
    assert "Einsum" not in found and ("MatMul" in found or "Gemm" in found)


@pytest.mark.parametrize("equation", ["ntc,cde->ntde", "ntde,def->ntf", "nc,cd->nd"])
def test_what_is_added_to_all_channels_is_the_bias_of_the_layer(equation: str, tmp_path: Path) -> None:
    assert "Add" not in ops(loaded(file_of(tmp_path, equation, *LAYERS[equation])))


@pytest.mark.parametrize("equation", OTHERS)
def test_what_is_no_layer_stays_an_einsum(equation: str, tmp_path: Path) -> None:
    assert "Einsum" in ops(loaded(file_of(tmp_path, equation, *OTHERS[equation], None)))
