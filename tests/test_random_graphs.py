"""Laws 4 to 6 on random nets: what is the same is shared, what is not shared stays, the order of channels means nothing.

GRAPHS nets are drawn; GRAPH_SEED in the environment draws others. A failing net is shrunk to the shortest list of steps that
still fails, which is printed with the seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from fusing import check_close, check_tasks, fuse, net_of, outputs, permuted, samples_for
from hypothesis import HealthCheck, example, given, note, seed, settings
from hypothesis import strategies as st
from random_graphs import STEPS, Step, grown

from onnxzip.errors import UnsupportedError

SEED = int(os.environ.get("GRAPH_SEED", "0"))
GRAPHS = int(os.environ.get("GRAPHS", "500"))
SAME, EXACT = 1e-3, 1e-4
STEP = st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 63))


def check_laws(folder: Path, steps: list[Step], weights: int) -> None:
    """Of one net."""
    model, used = grown(steps, weights)
    note(f"GRAPH_SEED={SEED}, steps {used}")
    net = net_of(folder, model, "a")
    copy = permuted(net, 5, "b")
    feeds = samples_for(net, 9, 8)
    for want, got in zip(outputs(net, feeds).values(), outputs(copy, feeds).values(), strict=True):
        assert np.isfinite(want).all()
        check_close(got, want, EXACT)
    layout = ("strands", "wide")[weights % 2]
    try:
        check_tasks(fuse([net, copy], 1.0, layout), [net, copy], SAME)
        if weights % 4:
            return
        other = net_of(folder, grown(steps, weights + 1000)[0], "b")
        check_tasks(fuse([net, other], 0.0, layout), [net, other], EXACT)
        for name, values in outputs(fuse([net, other], 0.5, layout).net, feeds).items():
            assert np.isfinite(values).all(), name
    except UnsupportedError as error:
        assert "share nothing" in str(error)


def test_random_nets_obey_the_laws(tmp_path: Path) -> None:
    @seed(SEED)
    @settings(
        max_examples=GRAPHS, deadline=None, database=None, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @example([("transposed", 0), ("repeated", 0), ("parted", 2)], 0)  # halves of what is repeated are one space
    @example([("parted", 0), ("spread", 1)], 0)  # both sides of a block, in halves of which one gates the other
    @given(st.lists(STEP, min_size=1, max_size=7), st.integers(0, 999))
    def laws(steps: list[Step], weights: int) -> None:
        check_laws(tmp_path, steps, weights)

    print(f"GRAPH_SEED={SEED}")
    laws()
