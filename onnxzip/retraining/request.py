"""What is asked of a retraining, checked before long work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxzip.config import RetrainOptions, RunOptions
from onnxzip.errors import UsageError
from onnxzip.foreign import name_of
from onnxzip.net import Port
from onnxzip.peers import Peers
from onnxzip.retraining.checkpoint import content_of
from onnxzip.retraining.heads import check_kinds, check_teaching, kinds_from
from onnxzip.retraining.objective import custom_loss
from onnxzip.retraining.student import device_for


def check_request(
    outputs: Mapping[str, Sequence[Port]], batch: int, options: RetrainOptions, run: RunOptions, peers: Peers
) -> None:
    """Refuse heads, a loss, a checkpoint or a device that could not be used in the end.

    Args:
        outputs: of each task, under the fused net's names.
        batch: first axis of the inputs: -1, or so many samples.
        peers: the processes that retrain together; the first one has the checkpoint.

    Raises:
        UsageError: there is no such output, kind, callable or checkpoint, or a checkpoint could not tell the loss.
        UnsupportedError: a task has no output that teaches.
        BackendMissingError: torch cannot use the device.
    """
    check_kinds([p.name for own in outputs.values() for p in own], kinds_from(options.head))
    check_teaching(outputs, batch)
    if options.loss:
        custom_loss(options.loss)
    if options.checkpoint is not None and callable(options.loss) and name_of(options.loss) is None:
        raise UsageError(
            "--checkpoint tells losses apart by their names, and this one has none. Define it by `def` at the top of a "
            "module, or leave the checkpoint out."
        )
    if options.resume and options.checkpoint is not None and peers.leads:
        content_of(options.checkpoint)
    device_for(run.device)
