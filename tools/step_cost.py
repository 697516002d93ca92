"""What one training step of a file's torch module costs against the same architecture hand-written in torch.

    python tools/step_cost.py [--family lenet5 ...] [--batch 64] [--threads 1] [--device cpu]

A step is forward, mean of the squared outputs, backward, on random images. A file holds its BatchNormalization folded into
the convolutions, so the hand-written net is measured as it stands in inference (`eval`), too, and without it (`folded`):
the same convolutions with a bias, which is the very work that the module does. Medians; the nets take turns, so that a busy
machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import onnxzip

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

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


def step_of(net: nn.Module, output: Callable[[object], torch.Tensor], x: torch.Tensor) -> Callable[[], None]:
    """One step, without the optimizer's share, which is the same for all."""

    def step() -> None:
        for param in net.parameters():
            param.grad = None
        output(net(x)).square().mean().backward()
        if x.is_cuda:
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


def measure(family: str, batch: int, repeats: int, device: str) -> list[float]:
    """Milliseconds: the module, the hand-written net folded and in inference; then the ratios."""
    torch.manual_seed(0)
    module = onnxzip.to_torch(ROOT / "models" / f"{family}-digits.onnx").to(device)
    classes = module.outputs[0].shape[1]
    plain, bare = FAMILIES[family](classes).eval().to(device), folded(FAMILIES[family](classes).eval()).to(device)
    x = torch.rand(batch, 1, 28, 28, device=device)
    name = module.outputs[0].name
    steps = [step_of(module, lambda found: found[name], x), step_of(bare, lambda y: y, x), step_of(plain, lambda y: y, x)]
    own, without, with_norm = medians(steps, repeats)
    return [own * 1e3, without * 1e3, with_norm * 1e3, own / without, own / with_norm]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row a family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", default=sorted(FAMILIES))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print("| family | module ms | folded ms | hand-written ms | module / folded | module / hand-written |\n|---|" + "--:|" * 5)
    for family in options.family:
        found = measure(family, options.batch, options.repeats, options.device)
        print(f"| {family} | " + " | ".join(f"{v:.2f}" for v in found) + " |", flush=True)


if __name__ == "__main__":
    main()
