"""The six families of example nets, each a hand-written torch module for images [N, 1, 28, 28] in 0..1.

* ``lenet300``: LeNet-300-100, and ``lenet5``: LeNet-5 (LeCun et al., Gradient-Based Learning Applied to Document
  Recognition, 1998), with the wider convolutions compression papers use;
* ``vgg``: plain 3x3 convolutions (Simonyan & Zisserman, 2015) with BatchNorm;
* ``resnet``: ResNet-20 in its CIFAR form (He et al., 2016), with projection shortcuts;
* ``mobilenet``: inverted residuals with linear bottlenecks (Sandler et al., MobileNetV2, 2018);
* ``lstm``: a long short-term memory (Hochreiter & Schmidhuber, 1997) that reads an image row by row.

Every function takes the number of classes and returns a freshly initialised net; the caller seeds torch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def lenet300(classes: int) -> nn.Module:
    """Return the MLP 784-300-100-classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, classes))


def lenet5(classes: int) -> nn.Module:
    """Return two unpadded 5x5 convolutions with pooling (28 -> 24 -> 12 -> 8 -> 4) and two dense layers."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(50 * 4 * 4, 160), nn.ReLU(), nn.Linear(160, classes)),
    )


def vgg(classes: int) -> nn.Module:
    """Return four 3x3 convolutions with BatchNorm at 28, 28, 14 and 7 pixels, pooled to 3x3, and two dense layers."""

    def convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()

    return nn.Sequential(
        *(*convolution(1, 16), *convolution(16, 32), nn.MaxPool2d(2)),
        *(*convolution(32, 32), nn.MaxPool2d(2)),
        *(*convolution(32, 64), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 3 * 3, 64), nn.ReLU(), nn.Linear(64, classes)),
    )


def convolution_bn(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias, padded to keep the image size at stride 1, and its BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    """ReLU(x' + BN conv ReLU BN conv x), where x' is x, or its 1x1 projection when shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Make the block; a change of width or a stride brings in the projection."""
        super().__init__()
        self.first = convolution_bn(inputs, outputs, 3, stride)
        self.second = convolution_bn(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution_bn(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return self.relu(self.shortcut(x) + self.second(self.relu(self.first(x))))


def resnet(classes: int) -> nn.Module:
    """Return three stages of three basic blocks, 16, 32 and 48 channels wide at 28, 14 and 7 pixels."""
    blocks, width = [], 16
    for stage, outputs in enumerate((16, 32, 48)):
        for index in range(3):
            blocks.append(BasicBlock(width, outputs, 2 if stage > 0 and index == 0 else 1))
            width = outputs
    return nn.Sequential(
        *(convolution_bn(1, 16, 3), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(width, classes)
    )


class InvertedResidual(nn.Module):
    """x + BN conv1x1 ReLU6 BN depthwise3x3 ReLU6 BN conv1x1 x; the skip only where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        """Make the block; the depthwise convolution has ``expand * inputs`` channels."""
        super().__init__()
        hidden = expand * inputs
        self.skip = inputs == outputs and stride == 1
        self.body = nn.Sequential(
            *(convolution_bn(inputs, hidden, 1), nn.ReLU6()),
            *(convolution_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()),
            convolution_bn(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.body(x) if self.skip else self.body(x)


def mobilenet(classes: int) -> nn.Module:
    """Return a stride-2 stem, seven inverted residuals at 14 then 7 pixels, and a 1x1 head of 96 channels."""
    layout = ((16, 16, 1), (16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 24, 1), (24, 32, 1), (32, 32, 1))
    return nn.Sequential(
        *(convolution_bn(1, 16, 3, 2), nn.ReLU6()),
        *(InvertedResidual(inputs, outputs, stride, expand=4) for inputs, outputs, stride in layout),
        *(convolution_bn(32, 96, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(96, classes),
    )


class RowReader(nn.Module):
    """An LSTM over the rows of an image from top to bottom, and a dense layer on what it remembers at the end."""

    def __init__(self, units: int, classes: int) -> None:
        """Make the net."""
        super().__init__()
        self.rows = nn.LSTM(28, units, batch_first=True)
        self.last = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        states, _ = self.rows(x.squeeze(1))
        return self.last(states[:, -1])


def lstm(classes: int) -> nn.Module:
    """Return an LSTM of 64 units over 28 rows of 28 pixels."""
    return RowReader(64, classes)


FAMILIES: dict[str, Callable[[int], nn.Module]] = {
    "lenet300": lenet300,
    "lenet5": lenet5,
    "vgg": vgg,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "lstm": lstm,
}
