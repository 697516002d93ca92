"""What one training step of a file's torch module costs against the same architecture hand-written in torch.

    python tools/step_cost.py [--family lenet5 ...] [--batch 64] [--threads 1] [--device cpu] [--write]

A step is forward, mean of the squared outputs, backward, on random images. Two modules are measured. `file` is a file as its
exporter wrote it, against the hand-written net in inference (`eval`). `merged` is one task of two such files merged at share
1, in which every BatchNormalization is folded into its convolution, against the hand-written net folded by torch. Medians;
the nets take turns, so that a busy machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from figures import put_into_readme
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import onnxzip

MODELS = Path(__file__).resolve().parent.parent / "models"
CLASSES = 10
BEGIN, END = "<!-- step: begin (python tools/step_cost.py --write) -->", "<!-- step: end -->"
sys.path.insert(0, str(MODELS))

from nets import FAMILIES  # noqa: E402


def folded(module: nn.Module) -> nn.Module:
    """The net in inference with every BatchNorm folded into the convolution before it, all of it trainable."""
    for child in module.children():
        folded(child)
    if isinstance(module, nn.Sequential):
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None:
                setattr(module, before[0], fuse_conv_bn_eval(before[1].eval(), child.eval()))
                setattr(module, name, nn.Identity())
            before = (name, child) if isinstance(child, nn.Conv2d) else None
    return module


def step_of(outputs: Callable[[], torch.Tensor], net: nn.Module) -> Callable[[], None]:
    """One step, without the optimizer's share, which is the same for all."""
    params = list(net.parameters())

    def step() -> None:
        for param in params:
            param.grad = None
        found = outputs()
        found.square().mean().backward()
        if found.is_cuda:
            torch.cuda.synchronize()

    return step


def medians(steps: Sequence[Callable[[], None]], repeats: int) -> list[float]:
    """Median seconds of each step, taking turns."""
    taken: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 3):
        for step, times in zip(steps, taken, strict=True):
            start = time.perf_counter()
            step()
            if turn >= 3:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def measure(family: str, batch: int, repeats: int, device: str) -> dict[str, float]:
    """Milliseconds of a step, and their ratios."""
    torch.manual_seed(0)
    files = {task: MODELS / f"{family}-{task}.onnx" for task in ("digits", "fashion")}
    module = onnxzip.to_torch(files["digits"]).to(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merged.onnx"
        onnxzip.merge(files, method="average").save(path)
        merged = onnxzip.to_torch(path).to(device)
    name, task = module.outputs[0].name, merged.outputs[0].name
    plain, bare = FAMILIES[family](CLASSES).eval().to(device), folded(FAMILIES[family](CLASSES).eval()).to(device)
    x = torch.rand(batch, 1, 28, 28, device=device)
    feeds = {merged.inputs[0].name: x}
    steps = [
        step_of(lambda: module(x)[name], module), step_of(lambda: plain(x), plain),
        step_of(lambda: merged.compute(feeds, [task])[task], merged), step_of(lambda: bare(x), bare),
    ]
    file, hand, one, hand_folded = (1e3 * seconds for seconds in medians(steps, repeats))
    return {
        "file ms": file, "hand-written ms": hand, "file / hand-written": file / hand,
        "merged ms": one, "hand-written, folded ms": hand_folded, "merged / hand-written": one / hand_folded,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row a family; into README.md where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=sorted(FAMILIES))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = {family: measure(family, options.batch, options.repeats, options.device) for family in options.family}
    columns = next(iter(rows.values()))
    lines = ["| family | " + " | ".join(columns) + " |", "| --- | " + "--: | " * len(columns)]
    lines += [f"| {family} | " + " | ".join(f"{v:.2f}" for v in row.values()) + " |" for family, row in rows.items()]
    text = "\n".join(line.rstrip() for line in lines)
    print(text)
    if options.write:
        put_into_readme(BEGIN, text, END)


if __name__ == "__main__":
    main()
