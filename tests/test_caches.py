"""Decoders whose keys and values are inputs and outputs: heads are shared in their order, and everything else as anywhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from decoders import CACHES, DECODERS, PRESENT, WORDS, decoder, exported, samples
from fusing import check_all_shared, net_of
from merging import fed
from sizing import check_at, fused_with_copy, input_dims, planned_with_copy, with_copy
from zoo.laws import examine

import onnxzip
from onnxzip.analysis.appended import notes_on_caches
from onnxzip.analysis.caches import Cache, caches_of
from onnxzip.errors import UnsupportedError
from onnxzip.runtime import to_model

PAST, TOKENS, SAME, NEAR = 5, 3, 1e-5, 1e-3
FILES = [("GPT", "torchscript"), ("GPT", "dynamo"), ("LLaMA", "torchscript")]


def saved(kind: str, dialect: str, seed: int, folder: Path) -> Path:
    if dialect == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("torch's dynamo exporter needs onnxscript")
    path = folder / f"{kind}-{dialect}-{seed}.onnx"
    onnx.save(exported(kind, decoder(kind, seed), dialect), path)
    return path


@pytest.fixture(scope="module", params=FILES, ids="-".join)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A decoder's kind, and its file."""
    kind, dialect = request.param
    return kind, saved(kind, dialect, 1, tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module", params=list(DECODERS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Path]]:
    """A decoder's kind, and two files of different starts."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, {t: saved(request.param, "torchscript", k, folder) for k, t in enumerate("ab", 1)}


def sizes_of(path: Path) -> dict[str, int]:
    """The sizes of the samples, by their names in the file."""
    dims = {p.name: [d.dim_param for d in p.type.tensor_type.shape.dim] for p in onnx.load(path).graph.input}
    found = {dims["input_ids"][1]: TOKENS, dims[CACHES[0]][2]: PAST}
    return found | ({dims["attention_mask"][1]: PAST + TOKENS} if "attention_mask" in dims else {})


def test_laws_of_the_merge(file: tuple[str, Path]) -> None:
    kind, path = file
    net = with_copy(path, sizes_of(path)).at[0].nets[0]
    found = examine(net, samples(kind, 60, PAST, TOKENS, 3), samples(kind, 9, PAST, TOKENS, 8))
    assert max(found.same, found.unshared, found.reordered) < SAME, found
    assert found.nearly < NEAR, found
    assert not found.refusals and found.shared == found.spaces == 5, found


def test_heads_are_shared_in_their_order(file: tuple[str, Path]) -> None:
    kind, path = file
    plan = planned_with_copy(path, sizes_of(path))
    check_all_shared(plan)
    heads = [s for s in plan.shared_spaces() if s.ordered]
    assert [s.sizes for s in heads] == [dict.fromkeys("ab", DECODERS[kind].groups)] * 2
    assert plan.layout.pieces[CACHES[0]].keys() == {frozenset("ab")}
    [note] = notes_on_caches(plan)
    assert CACHES[0] in note and PRESENT[0] in note and "the tasks share" in note


def test_any_number_of_tokens_behind_any_number(file: tuple[str, Path]) -> None:
    kind, path = file
    fused = fused_with_copy(path, samples(kind, 60, PAST, TOKENS, 3), sizes_of(path))
    names = list(sizes_of(path))
    assert input_dims(fused)["input_ids"] == ["batch", names[0]]
    assert {tuple(input_dims(fused)[name][:3]) for name in CACHES} == {("batch", 2, names[1])}
    for past, tokens in ((PAST, TOKENS), (0, 4), (1, 1), (11, 2), (30, 6)):
        check_at(fused, path, samples(kind, 4, past, tokens, 8), SAME)


def test_it_goes_on_from_its_own_cache(file: tuple[str, Path]) -> None:
    """Word by word, from nothing, as the original reads all at once."""
    kind, path = file
    content = to_model(fused_with_copy(path, samples(kind, 60, PAST, TOKENS, 3), sizes_of(path)).net).SerializeToString()
    whole = samples(kind, 4, 0, 7, 5)
    want, said, caches = fed(path, whole)["logits"], [], {name: whole[name] for name in CACHES}
    for k in range(7):
        words = {"input_ids": whole["input_ids"][:, k : k + 1]}
        if kind == "LLaMA":
            words |= {"attention_mask": np.ones((4, k + 1), np.int64), "position_ids": np.full((4, 1), k)}
        now = fed(content, words | caches)
        for past, present in zip(CACHES, PRESENT, strict=True):
            np.testing.assert_array_equal(now[f"a_{present}"], now[f"b_{present}"])
            caches[past] = now[f"b_{present}"]
        said.append(now["a_logits"])
    np.testing.assert_allclose(np.concatenate(said, axis=1), want, rtol=0, atol=SAME * float(np.abs(want).max()))


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_merged_and_taken_apart_again(pair: tuple[str, dict[str, Path]], share: float, tmp_path: Path) -> None:
    kind, files = pair
    data, fresh = samples(kind, 60, PAST, TOKENS, 3), samples(kind, 4, 9, 2, 8)
    merged = onnxzip.merge(files, dict.fromkeys(files, data), share=share)
    merged.save(tmp_path / "both.onnx")
    found = fed(tmp_path / "both.onnx", fresh)
    for task, path in files.items():
        alone, original = fed(onnxzip.split(tmp_path / "both.onnx", task).SerializeToString(), fresh), fed(path, fresh)
        assert list(alone) == list(original) == ["logits", *PRESENT]
        for name, array in alone.items():
            np.testing.assert_array_equal(array, found[f"{task}_{name}"])
            if share == 0:
                np.testing.assert_allclose(array, original[name], rtol=0, atol=SAME)
    if share:
        assert merged.report["merged"]["params_ratio"] < 0.65
        assert all(s["shared"] for s in merged.report["spaces"])
        for past, present in zip(CACHES, PRESENT, strict=True):
            np.testing.assert_array_equal(found[f"a_{present}"][:, :, :9], fresh[past])


def test_caches_of_each_task_share_nothing(pair: tuple[str, dict[str, Path]]) -> None:
    """What follows from a cache is said for the task that it is of."""
    kind, files = pair
    data = samples(kind, 20, PAST, TOKENS, 3)
    with pytest.raises(UnsupportedError, match=r"reads 'b_past_key_values.0.(key|value)', which not all have"):
        onnxzip.merge(files, dict.fromkeys(files, data), apart=["past_key_values*"])


TEXT = """<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3] x, float[n, 4, 5] past) => (float[n, 2] y, float[n, 4, 6] present) {
    k = Gemm<transB=1>(x, w)
    axes = Constant<value_ints=[2]>()
    now = Unsqueeze(k, axes)
    present = Concat<axis=2>(%s)
    mean = ReduceMean<axes=[2], keepdims=0>(present)
    r = Relu(mean)
    y = Gemm<transB=1>(r, v)
}"""


@pytest.mark.parametrize(("joined", "found"), [("past, now", (Cache("past", "present", 2),)), ("now, past", ())])
def test_what_a_cache_is(joined: str, found: tuple[Cache, ...], tmp_path: Path) -> None:
    """An output that begins with an input; where it ends with one, nobody can feed it back."""
    model, rng = onnx.parser.parse_model(TEXT % joined), np.random.default_rng(WORDS)
    for name, shape in (("w", (4, 3)), ("v", (2, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name))
    assert caches_of(net_of(tmp_path, model, "net")) == found
