"""Parts of a value that are written over in place, as torch's exporters write them: nodes whose index grows with the batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fusing import check_all_shared, check_close, fuse, outputs, permuted, samples_for
from netfiles import loaded, written
from torch import Tensor, nn

from onnxzip.errors import UnsupportedError
from onnxzip.fusion.assembling import output_name
from onnxzip.loading import load

TOKENS, WIDTH = 6, 8


def shifted(x: Tensor) -> Tensor:
    """A quarter of the channels a step ahead (temporal shift module: Lin, Gan, Han, ICCV 2019)."""
    out = torch.zeros_like(x)
    out[:, :-1, :2] = x[:, 1:, :2]
    out[:, :, 2:] = x[:, :, 2:]
    return out


def step_by_step(x: Tensor) -> Tensor:
    """A running sum, written token by token (RWKV)."""
    out, now = torch.zeros_like(x), torch.zeros_like(x[:, 0])
    for t in range(TOKENS):
        now = now * 0.5 + x[:, t]
        out[:, t] = now
    return out


def halved_within(x: Tensor) -> Tensor:
    """What stands between keeps what it was."""
    out = x.clone()
    out[:, 2:4] = out[:, 2:4] * 0.5
    return out


class Net(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.change = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3), change

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(torch.relu(self.change(torch.relu(self.first(x)))).mean(1))
        return y


def exported(change: Callable[[Tensor], Tensor], path: Path) -> Path:
    torch.manual_seed(1)
    file = io.BytesIO()
    torch.onnx.export(
        Net(change).eval(), (torch.randn(2, TOKENS, 5),), file, input_names=["x"], output_names=["out"], opset_version=16,
        dynamic_axes={"x": {0: "N"}, "out": {0: "N"}}, dynamo=False,
    )
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [shifted, step_by_step, halved_within])
def test_what_torch_writes_in_place_merges(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    path = exported(change, tmp_path / "a.onnx")
    assert "ScatterND" in {n.op_type for n in onnx.load(path).graph.node}
    net = loaded(path, batches=(1, 5))
    assert "ScatterND" not in {n.op for n in net.nodes}
    fused = fuse([load(path, "a"), permuted(net, 5, "b")])
    check_all_shared(fused.plan)
    fresh = samples_for(net, 9, 8)
    for task in "ab":
        check_close(outputs(fused.net, fresh)[output_name(task, "out")], outputs(net, fresh)["out"], 1e-4)


MASK = """g (float[N,4] x, float[N,4] xs) => (float[N,4] y)
<int64 none = {{0}}, int64 one = {{1}}, int64[2] rows = {{-1, 1}}, int64[1] last = {{-1}}, float[1,4] low = {{-9, -9, -9, -9}},
 int64[4] columns = {{{columns}}}>
{{
    shape = Shape (x)
    batch = Gather (shape, none)
    mask = Expand (low, shape)
    samples = Range (none, batch, one)
    n = Reshape (samples, rows)
    allsamples = Expand (n, shape)
    allcolumns = Expand (columns, shape)
    a = Unsqueeze (allsamples, last)
    b = Unsqueeze (allcolumns, last)
    at = Concat <axis = -1> (a, b)
    new = {new}
    whole = ScatterND (mask, at, new)
    y = Add (x, whole)
}}"""


@pytest.mark.parametrize("new", ["Neg (xs)", "Exp (mask)"], ids=["computed", "constant"])
def test_a_mask_that_is_written_over_whole(new: str, tmp_path: Path) -> None:
    """As transformers do to lay a padding mask over a causal one; what is written may be constant, too."""
    net = loaded(written(tmp_path, MASK.format(columns="0, 1, 2, 3", new=new), 17), batches=(1, 5))
    assert "ScatterND" not in {n.op for n in net.nodes}


def test_other_places_are_written_by_their_index(tmp_path: Path) -> None:
    path = written(tmp_path, MASK.format(columns="0, 2, 1, 3", new="Neg (xs)"), 17)
    with pytest.raises(UnsupportedError, match="depends on the batch size"):
        load(path)


def test_what_is_added_where_it_is_written_stays(tmp_path: Path) -> None:
    text = """g (float[2,4] x) => (float[2,4] y) <int64[2] two = {2, 4}, int64[1,1] at = {0}, float[1,4] more = {1, 2, 3, 4}>
    { one = Expand (more, two) z = ScatterND <reduction = "add"> (one, at, more) y = Add (x, z) }"""
    net = load(written(tmp_path, text, 17))
    feeds = {"x": np.ones((2, 4), np.float32)}
    np.testing.assert_allclose(outputs(net, feeds)["y"], [[3, 5, 7, 9], [2, 3, 4, 5]])
