"""Write a trained torch net as ONNX, graph as trained, and measure the file rather than the module.

BatchNormalization stays an explicit node with its running statistics: torch's TorchScript exporter fuses it into the
convolution before it only when it exports for inference, so the net is put in evaluation mode by hand and exported
with that mode *preserved*, without constant folding; but for an LSTM, whose gates that exporter brings into ONNX's order by
nodes of their own, which folding takes away.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from atomic import atomic_path
from torch import nn

OPSET = 17
MAX_BYTES = 2_000_000
TOLERANCE = 1e-4


def with_own_parameters(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with a parameter of its own for every ``Identity`` of a parameter.

    The exporter stores equal parameters once. A residual block has two that are equal, though the net does not share
    them: the biases of the two BatchNorms that are added start at 0 and get the same gradient ever after.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    parameters = {tensor.name: tensor for tensor in model.graph.initializer}
    copies = [n for n in model.graph.node if n.op_type == "Identity" and n.input[0] in parameters]
    for node in copies:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(parameters[node.input[0]])
        tensor.name = node.output[0]
        model.graph.node.remove(node)
    return model


def export(net: nn.Module, path: Path) -> None:
    """Write ``net`` with input ``image`` [N, 1, 28, 28] and output ``logits`` [N, classes].

    Raises:
        ValueError: if a BatchNormalization was lost, or a node only renames a value, or the file is too large.
        onnx.checker.ValidationError: if the file is not valid ONNX.
    """
    net = net.to(memory_format=torch.contiguous_format).eval()
    batch_norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    recurrent = any(isinstance(module, nn.LSTM) for module in net.modules())
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            # The warning says that this exporter is the old one; it is the one that keeps BatchNormalization.
            warnings.simplefilter("ignore", DeprecationWarning)
            # That an LSTM's first states would not follow the batch: these do, they are zeros.
            warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size other than 1")
            torch.onnx.export(
                net,
                (torch.zeros(1, 1, 28, 28),),
                temporary,
                dynamo=False,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=recurrent,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            )
        model = with_own_parameters(onnx.load(temporary))
        onnx.save(model, temporary)
        onnx.checker.check_model(model, full_check=True)
        kinds = [node.op_type for node in model.graph.node]
        if kinds.count("BatchNormalization") != batch_norms or "Identity" in kinds:
            raise ValueError(f"{path.name}: the exported graph is not the net's: {kinds}")
        if temporary.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.name}: {temporary.stat().st_size} bytes, more than {MAX_BYTES}")


def logits(path: Path, images: np.ndarray, batch: int = 500) -> np.ndarray:
    """Run an exported net in onnxruntime, on one thread, over uint8 images [N, 1, 28, 28]."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [images[start : start + batch].astype(np.float32) / 255 for start in range(0, len(images), batch)]
    return np.concatenate([session.run(["logits"], {"image": part})[0] for part in parts])


def check_equal(net: nn.Module, path: Path, images: np.ndarray) -> float:
    """Return the largest difference of the file's logits from the net's over some images.

    Raises:
        ValueError: if it is above the tolerance.
    """
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(images.astype(np.float32) / 255)).numpy()
    difference = float(np.abs(logits(path, images) - expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"{path.name}: onnxruntime differs from torch by {difference}")
    return difference
