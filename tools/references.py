"""What a merge has to beat: nets of the merged graph at share 1 that no merge has made, and how the first is trained.

    trunk     the first net's trunk and head, a head drawn at random for the second task
    scratch   every weight drawn at random

Weights are drawn uniformly from +-sqrt(6 / inputs) (He, Zhang, Ren, Sun, ICCV 2015; of rows that no activation follows, too);
biases are 0. `train` has no guard against tasks that get worse, which the trunk's first one, exact at the start, must: squared
distance over variance plus divergence, Adam, warm-up and cosine decay; the last weights count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch.nn.functional import kl_div, log_softmax, mse_loss

import onnxzip
from onnxzip.retraining.module import write_params

Files = Mapping[str, Path]
Start = Callable[[Files, Files, int, int], ModelProto]
RATES = (0.0003, 0.001, 0.003)  # of `train`


def trunk(nets: Files, data: Files, samples: int, seed: int) -> ModelProto:
    """The first net merged with itself: all its own; then the second task's head drawn at random."""
    first, second = nets
    model = onnxzip.merge(dict.fromkeys(nets, nets[first]), data[first], samples=samples, seed=seed).model
    return drawn(model, owned_by(model, [second]), seed)


def scratch(nets: Files, data: Files, samples: int, seed: int) -> ModelProto:
    """Every weight of the merge drawn at random."""
    model = onnxzip.merge(nets, data, samples=samples, seed=seed).model
    return drawn(model, {t.name for t in model.graph.initializer}, seed)


STARTS: dict[str, Start] = {"trunk": trunk, "scratch": scratch}


def owned_by(model: ModelProto, tasks: list[str]) -> set[str]:
    """Params that only these tasks need."""
    (owners,) = (p.value for p in model.metadata_props if p.key == "onnxzip.owners")
    return {name for found, _, params in json.loads(owners) if found == tasks for name in params}


def drawn(model: ModelProto, names: set[str], seed: int) -> ModelProto:
    """The same model with some float params drawn at random; numbers that stand alone, as the bounds of a Clip, are kept."""
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        shape = tuple(tensor.dims)
        if shape and tensor.name in names and tensor.data_type == onnx.TensorProto.FLOAT:
            transposed = len(shape) == 2 and not any(
                tensor.name == n.input[1] and any(a.name == "transB" and a.i for a in n.attribute)
                for n in model.graph.node if n.op_type == "Gemm"
            )
            inputs = shape[0] if transposed else math.prod(shape[1:])
            bound = math.sqrt(6 / inputs) if len(shape) > 1 else 0.0
            tensor.CopyFrom(numpy_helper.from_array(rng.uniform(-bound, bound, shape).astype(np.float32), tensor.name))
    return model


def train(start: Path, nets: Files, data: Files, steps: int, rate: float, seed: int, batch: int = 64) -> bytes:
    """Distil the original nets into a fused one.

    Args:
        start: the fused file.
        nets: original file by task; outputs of the fused net are named TASK_logits.
        data: images uint8 by task.
        rate: peak of the learning rate.

    Returns:
        The file with the weights of the last step.
    """
    student, rng = onnxzip.to_torch(start), np.random.default_rng(seed)
    teachers = {t: onnxzip.to_torch(p).requires_grad_(False) for t, p in nets.items()}
    images = {p: torch.from_numpy(np.load(p)["x"]) for p in dict.fromkeys(data.values())}
    optimizer = torch.optim.Adam(student.parameters(), rate)
    warm = max(1, min(100, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min(1.0, (k + 1) / warm) * 0.5 * (1 + math.cos(math.pi * k / steps))
    )
    for _ in range(steps):
        drawn_images = {p: x[rng.integers(len(x), size=batch)].float() / 255 for p, x in images.items()}
        loss = sum((
            _distance(student.compute({"image": drawn_images[data[t]]}, [f"{t}_logits"])[f"{t}_logits"],
                      net(drawn_images[data[t]])["logits"])
            for t, net in teachers.items()
        ), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return write_params(student)


def _distance(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0) -> torch.Tensor:
    """Squared distance over the teacher's variance, plus the divergence of the classes."""
    mine, wanted = (log_softmax(x / temperature, dim=1) for x in (student, teacher))
    divergence = kl_div(mine, wanted, reduction="batchmean", log_target=True)
    return mse_loss(student, teacher) / teacher.var(dim=0, unbiased=False).mean() + temperature**2 * divergence
