"""What exporters write in different ways is one net: it loads as its plain twin, and merges with a permuted copy of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fusing import check_all_shared, check_close, check_tasks, fuse, outputs, permuted, samples_for
from onnx import ModelProto, helper, numpy_helper, parser

import onnxzip
from onnxzip.analysis import analyse
from onnxzip.loading import load, load_all
from onnxzip.net import Net

SHAPES: Mapping[str, tuple[int, ...]] = {
    "c1": (6, 3, 3, 3), "c1b": (6,), "c2": (8, 6, 3, 3), "c2b": (8,), "fc": (5, 8), "fcb": (5,), "fct": (8, 5),
    "fcw": (5, 10),
    "g": (6,), "h": (6,), "mu": (6,), "va": (6,), "w1": (10, 12), "b1": (12,), "w2": (12, 16), "b2": (16,), "w3": (16, 12),
    "b3": (12,), "w4": (12, 4), "b4": (4,), "s": (12,), "t": (12,), "wqkv": (12, 36), "bqkv": (36,),
    "wq": (12, 12), "wk": (12, 12), "wv": (12, 12), "bq": (12,), "bk": (12,), "bv": (12,),
}
IMAGE, TOKENS = "float[N,3,8,8] x", "float[N,5,10] x"
HEAD = "p = GlobalAveragePool (z) f = Flatten (p) y = Gemm <transB = 1> (f, fc, fcb)"
PLAIN_CONV = f"a = Conv <pads = [1,1,1,1]> (x, c1, c1b) b = Relu (a) d = Conv <pads = [1,1,1,1]> (b, c2, c2b) z = {{0}} {HEAD}"
PLAIN_TOKENS = """a0 = MatMul (x, w1) a = Add (a0, b1) {norm} c0 = MatMul (n, w2) c = Add (c0, b2) {gelu} e0 = MatMul (u, w3)
e = Add (e0, b3) r = Add (e, a) m = {mean} o0 = MatMul (m, w4) y = Add (o0, b4)"""
MEAN = {17: "ReduceMean <axes = [1], keepdims = 0> (r)", 20: "ReduceMean <keepdims = 0> (r, one_i)"}
LAYER_NORM = "n = LayerNormalization <axis = -1> (a, s, t)"
SPELLED_NORM = """nm = ReduceMean <axes = [-1]> (a) nc = Sub (a, nm) ns = Pow (nc, two) nv = ReduceMean <axes = [-1]> (ns)
ne = Add (nv, eps) nr = Sqrt (ne) nd = Div (nc, nr) nw = Mul (nd, s) n = Add (nw, t)"""
SPELLED_RMS = """ns = Pow (a, two) nv = ReduceMean <axes = [-1]> (ns) ne = Add (nv, eps) nr = Sqrt (ne) nd = Div (a, nr)
n = Mul (nd, s)"""
KERAS_NORM = """nm = ReduceMean <axes = [-1]> (a) nc = Sub (a, nm) ns = Mul (nc, nc) nv = ReduceMean <axes = [-1]> (ns)
ne = Add (nv, eps) nr = Sqrt (ne) nd = Reciprocal (nr) nw = Mul (nd, s) nx = Mul (a, nw) nb = Mul (nm, nw)
nt = Sub (t, nb) n = Add (nx, nt)"""
SPELLED_GELU = "u0 = Div (c, root_two) u1 = Erf (u0) u2 = Add (u1, one) u3 = Mul (c, u2) u = Mul (u3, half)"
TANH_GELU = """u0 = Pow (c, three) u1 = Mul (u0, k) u2 = Add (c, u1) u3 = Mul (u2, root) u4 = Tanh (u3) u5 = Add (u4, one)
u6 = Mul (c, half) u = Mul (u6, u5)"""
SPELLED_LRN = """l0 = Mul (d, d) l1 = Reshape (l0, five_axes) l2 = Pad (l1, around)
l3 = AveragePool <kernel_shape = [3,1,1]> (l2) l4 = Squeeze (l3, one_i) l5 = Mul (l4, half) l6 = Add (l5, one)
l7 = Pow (l6, three_quarters) z = Div (d, l7)"""
NUMBERS = {
    "two": 2.0, "three": 3.0, "six": 6.0, "zero": 0.0, "one": 1.0, "half": 0.5, "sixth": 1 / 6, "eps": 1e-5,
    "root_two": 2**0.5, "root": (2 / np.pi) ** 0.5, "k": 0.044715, "three_quarters": 0.75,
    "root_half": 0.5**0.5, "minus": -0.5, "twenty": 20.0,
    "lowest": -3.4e38, "lowest_half": -65504.0, "minus_ten_thousand": -1e4,
}


def params(seed: int) -> dict[str, np.ndarray]:
    """Weights by name, and numbers."""
    rng = np.random.default_rng(seed)
    found = {n: np.asarray(rng.standard_normal(s) / np.sqrt(max(1, np.prod(s[1:]))), np.float32) for n, s in SHAPES.items()}
    found["va"] = np.abs(found["va"]) + np.float32(0.5)
    found["fct"] = np.ascontiguousarray(found["fc"].T)
    for k, n in enumerate("qkv"):
        found[f"w{n}"] = np.ascontiguousarray(found["wqkv"][:, 12 * k : 12 * k + 12])
        found[f"b{n}"] = found["bqkv"][12 * k : 12 * k + 12]
    ints = {"one_i": [1], "heads": [0, 0, 3, 4], "flat": [0, 0, 12], "last": [2, 3], "five_axes": [-1, 1, 8, 8, 8],
            "around": [0, 0, 1, 0, 0, 0, 0, 1, 0, 0], "before": [0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            "ring": [0, 0, 1, 1, 0, 0, 1, 1], "none": [0] * 8, "deeper": [0, 0, 0, 0, 0, 2, 0, 0], "as_rows": [0, 8],
            "one_axis": [-1], "as_maps": [-1, 8, 1, 1], "zero_i": [0], "four_i": [4], "eight_i": [8], "end_i": [2**63 - 1],
            "fours": [4, 4], "halves": [0, 2, 4, 8, 8], "ones": [1, 1], "maps": [1, 1, 8, 8], "joint_heads": [-1, 5, 4],
            "keys_again": [-1, 3, 4, 5], "nought": 0, "minus_one": -1}
    numbers = {n: np.float32(v) for n, v in NUMBERS.items()}
    return found | numbers | {n: np.array(v, np.int64) for n, v in ints.items()}


def model(text: str, port: str = IMAGE, opset: int = 17, imports: str = "", in_nodes: bool = False) -> ModelProto:
    """A net from the text of its nodes; params that it names are initializers, or what Constant nodes hold."""
    header = f'<ir_version: 8, opset_import: ["": {opset}{imports}]>'
    made = parser.parse_model(f"{header} net ({port}) => (float[N,M] y) {{ {text} }}")
    read = {v for node in made.graph.node for v in node.input}
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in params(1).items() if n in read]
    if in_nodes:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors] + list(made.graph.node)
        del made.graph.node[:]
        made.graph.node.extend(nodes)
    else:
        made.graph.initializer.extend(tensors)
    return made


def saved(folder: Path, name: str, made: ModelProto) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(made, path)
    return path


def check_twins(folder: Path, dialect: ModelProto, plain: ModelProto) -> None:
    """Both compute the same, and every node of one plays a part in the other."""
    files = {"dialect": saved(folder, "dialect", dialect), "plain": saved(folder, "plain", plain)}
    nets = load_all(files)
    plan = analyse(nets)
    assert [n.op for n in nets[0].nodes] == [n.op for n in nets[1].nodes]
    assert all(set(role.members) == {"dialect", "plain"} for role in plan.overlay.roles)
    check_all_shared(plan)
    check_tasks(fuse(list(nets)), nets, 1e-4)


def check_copies(folder: Path, dialect: ModelProto) -> Net:
    """The net computes what its file computes, and gives itself back when it is merged with a permuted copy."""
    path = saved(folder, "net", dialect)
    net = load(path, "a")
    feeds = samples_for(net, 7)
    (port,) = net.outputs
    want = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    check_close(outputs(net, feeds)[port.name], want, 1e-5)
    nets = [net, permuted(load(path, "b"), 5)]
    fused = fuse(nets)
    check_all_shared(fused.plan)
    check_tasks(fused, nets, 1e-4)
    return net


def conv_net(last: str) -> str:
    return PLAIN_CONV.format(last)


def token_net(norm: str, gelu: str, opset: int = 17) -> str:
    return PLAIN_TOKENS.format(norm=norm, gelu=gelu, mean=MEAN[opset])


POOLED, FLAT = "p = GlobalAveragePool (z) f = Flatten (p)", "f = Flatten (p)"
POOLS = {
    "mean": "p = ReduceMean <axes = [2,3], keepdims = 1> (z) f = Flatten (p)",
    "flat mean": "f = ReduceMean <axes = [-2,-1], keepdims = 0> (z)",
    "max": "p = ReduceMax <axes = [2,3], keepdims = 1> (z) f = Flatten (p)",
    "average window": "p = AveragePool <kernel_shape = [8,8]> (z) f = Flatten (p)",
    "max window": "p = MaxPool <kernel_shape = [8,8], strides = [8,8]> (z) f = Flatten (p)",
}
SHAPED = {
    "Reshape": "f = Reshape (p, as_rows)", "Squeeze": "f = Squeeze (p, last)",
    "one after the other": "p1 = Reshape (p, one_axis) p2 = Reshape (p1, as_maps) f = Squeeze (p2, last)",
    "to and fro": "p1 = Squeeze (p, last) p2 = Unsqueeze (p1, last) f = Flatten (p2)",
}
GATED = "h2 = Sigmoid (h1) h3 = Mul (h1, h2) z = Concat <axis = 1> (h0, h3)"
PARTS = {
    "slices": (
        "h0 = Slice (d, zero_i, four_i, one_i) h1 = Slice (d, four_i, end_i, one_i) h4 = Slice (d, four_i, eight_i, one_i) "
        + GATED.replace("Mul (h1,", "Mul (h4,"),
        f"h0, h1 = Split <axis = 1> (d, fours) {GATED}",
    ),
    "entries": (
        f"gg = Reshape (d, halves) h0 = Gather <axis = 1> (gg, nought) h1 = Gather <axis = 1> (gg, minus_one) {GATED}",
        "gg = Reshape (d, halves) g0, g1 = Split <axis = 1> (gg, ones) h0 = Squeeze (g0, one_i) h1 = Squeeze (g1, one_i) "
        + GATED,
    ),
}
BATCH_NORM = f"""a = Conv <pads = [1,1,1,1]> (x, c1) q = BatchNormalization (a, g, h, mu, va) b = Relu (q)
d = Conv <pads = [1,1,1,1]> (b, c2, c2b) z = Relu (d) {HEAD}"""
NHWC = """xt = Transpose <perm = [0,3,1,2]> (x) a = Conv <auto_pad = "SAME_UPPER"> (xt, c1, c1b) b = Relu (a)
d = Conv <auto_pad = "SAME_UPPER"> (b, c2, c2b) e = Relu (d) z = Transpose <perm = [0,2,3,1]> (e)
p = ReduceMean <axes = [1,2], keepdims = 0> (z) m = MatMul (p, fct) y = Add (m, fcb)"""
SWISHES = {
    "clip": "v = Add (d, three) w = Clip (v, zero, six) v2 = Mul (d, w) z = Div (v2, six)",
    "inner": "v = Add (d, three) w = Clip (v, zero, six) v2 = Div (w, six) z = Mul (d, v2)",
    "sigmoid": "v = HardSigmoid <alpha = 0.1666667, beta = 0.5> (d) z = Mul (d, v)",
    "sixth": "v = Add (d, three) w = Clip (v, zero, six) v2 = Mul (d, w) z = Mul (v2, sixth)",
}
FUNCTION = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
net (float[N,3,8,8] x) => (float[N,M] y) {{ a = Conv <pads = [1,1,1,1]> (x, c1, c1b) b = local.act (a)
d = Conv <pads = [1,1,1,1]> (b, c2, c2b) z = local.act (d) {head} }}
<domain: "local", opset_import: ["": 17]> act (v) => (w) {{ w = Relu (v) }}"""
ATTENTION = """a0 = MatMul (x, w1) a = Add (a0, b1) {0} e0 = MatMul (u, w4) e = Add (e0, b4)
y = ReduceMean <axes = [1], keepdims = 0> (e)"""


HEADS = """a0 = MatMul (x, w1) a = Add (a0, b1) q0 = MatMul (a, wq) q1 = Add (q0, bq) k0 = MatMul (a, wk) k1 = Add (k0, bk)
v0 = MatMul (a, wv) v1 = Add (v0, bv) q2 = Reshape (q1, heads) k2 = Reshape (k1, heads) v2 = Reshape (v1, heads)
q = Transpose <perm = [0,2,1,3]> (q2) v = Transpose <perm = [0,2,1,3]> (v2) {} o = Softmax <axis = -1> (sc) u0 = MatMul (o, v)
u1 = Transpose <perm = [0,2,1,3]> (u0) u = Reshape (u1, flat) e0 = MatMul (u, w4) e = Add (e0, b4)
y = ReduceMean <axes = [1], keepdims = 0> (e)"""
KEYS = "kt = Transpose <perm = [0,2,3,1]> (k2)"
FLAT_KEYS = """k3 = Transpose <perm = [0,2,1,3]> (k2) k4 = Reshape (k3, joint_heads) k5 = Transpose <perm = [0,2,1]> (k4)
kt = Reshape (k5, keys_again)"""
SCALED = f"{KEYS} s0 = MatMul (q, kt) sc = Mul (s0, half)"
SCORES = {
    "divided": f"{KEYS} s0 = MatMul (q, kt) sc = Div (s0, two)",
    "queries": f"{KEYS} q3 = Mul (q, half) sc = MatMul (q3, kt)",
    "both": f"{KEYS} q3 = Mul (q, root_half) k6 = Mul (kt, root_half) sc = MatMul (q3, k6)",
    "both, flat keys": f"{FLAT_KEYS} q3 = Mul (q, root_half) k6 = Mul (kt, root_half) sc = MatMul (q3, k6)",
    "in front of moves": f"{KEYS} q3 = Mul (q2, half) q4 = Transpose <perm = [0,2,1,3]> (q3) sc = MatMul (q4, kt)",
}


class TestTwins:
    @pytest.mark.parametrize("style", sorted(SWISHES))
    def test_hard_swish_in_every_spelling(self, style: str, tmp_path: Path) -> None:
        spelled = conv_net("Identity (d)").replace("z = Identity (d)", SWISHES[style])
        check_twins(tmp_path, model(spelled), model(conv_net("HardSwish (d)")))

    @pytest.mark.parametrize("norm", [SPELLED_NORM, KERAS_NORM], ids=["torch", "keras"])
    def test_a_norm_that_is_spelled_out(self, norm: str, tmp_path: Path) -> None:
        plain = model(token_net(LAYER_NORM, "u = Relu (c)"), TOKENS)
        check_twins(tmp_path, model(token_net(norm, "u = Relu (c)"), TOKENS), plain)

    def test_a_local_response_that_is_spelled_out(self, tmp_path: Path) -> None:
        spelled = conv_net("Identity (d)").replace("z = Identity (d)", SPELLED_LRN)
        plain = model(conv_net("LRN <size = 3, alpha = 0.5, beta = 0.75, bias = 1.0> (d)"))
        check_twins(tmp_path, model(spelled), plain)
        beside = load(saved(tmp_path, "beside", model(spelled.replace("around", "before"))), "beside")
        assert "LRN" not in {n.op for n in beside.nodes}

    @pytest.mark.parametrize(("spelled", "attribute"), [(SPELLED_GELU, "none"), (TANH_GELU, "tanh")], ids=["erf", "tanh"])
    def test_gelu_that_is_spelled_out_by_an_older_opset(self, spelled: str, attribute: str, tmp_path: Path) -> None:
        plain = token_net(LAYER_NORM, f'u = Gelu <approximate = "{attribute}"> (c)', 20)
        check_twins(tmp_path, model(token_net(LAYER_NORM, spelled), TOKENS), model(plain, TOKENS, 20))

    @pytest.mark.parametrize(("spelled", "other"), [(SPELLED_GELU, "Gelu"), (TANH_GELU, "FastGelu")], ids=["erf", "tanh"])
    def test_gelu_in_two_spellings_of_an_older_opset(self, spelled: str, other: str, tmp_path: Path) -> None:
        """An exporter's nodes beside what ONNX Runtime's operator means; the fused file spells it out, too."""
        fused = model(token_net(LAYER_NORM, f"u = com.microsoft.{other} (c)"), TOKENS, imports=', "com.microsoft": 1')
        check_twins(tmp_path, model(token_net(LAYER_NORM, spelled), TOKENS), fused)
        files = {"a": tmp_path / "dialect.onnx", "b": tmp_path / "plain.onnx"}
        made = onnxzip.merge(files, samples_for(load(files["a"]))).model
        assert {o.domain: o.version for o in made.opset_import}[""] == 17
        assert {n.op_type for n in made.graph.node} >= {"Mul", "Add", "Tanh" if other == "FastGelu" else "Erf"}

    def test_weights_in_constant_nodes_and_no_initializer(self, tmp_path: Path) -> None:
        text = conv_net("Relu (d)")
        check_twins(tmp_path, model(text, in_nodes=True), model(text))

    def test_normalization_of_its_own_and_folded(self, tmp_path: Path) -> None:
        given = params(1)
        scale = given["g"] / np.sqrt(given["va"] + np.float32(1e-5))
        folded = model(conv_net("Relu (d)"))
        for tensor in folded.graph.initializer:
            if tensor.name in ("c1", "c1b"):
                new = given["c1"] * scale[:, None, None, None] if tensor.name == "c1" else given["h"] - given["mu"] * scale
                tensor.CopyFrom(numpy_helper.from_array(new, tensor.name))
        check_twins(tmp_path, model(BATCH_NORM), folded)

    def test_opsets_and_local_functions(self, tmp_path: Path) -> None:
        local = parser.parse_model(FUNCTION.format(head=HEAD))
        local.graph.initializer.extend(model(conv_net("Relu (d)")).graph.initializer)
        for opset in (9, 11, 13, 18, 20, 22):
            check_twins(tmp_path, local, model(conv_net("Relu (d)"), opset=opset))

    def test_numbers_in_attributes(self, tmp_path: Path) -> None:
        text = conv_net("Relu (h2)").replace("z = Relu", "n = Constant <value_float = 0.5> () h2 = Mul (d, n) z = Relu")
        check_twins(tmp_path, model(text), model(conv_net("Relu (h2)").replace("z = Relu", "h2 = Mul (d, half) z = Relu")))

    @pytest.mark.parametrize("shape", [(1,), (1, 1, 1), (1, 1, 1, 1)], ids=str)
    def test_single_numbers_with_axes(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        """As Paddle writes them: constants that stay what they are, and factors that are others in each net."""
        text = conv_net("Relu (h3)").replace("z = Relu", "h2 = Mul (d, half) h3 = Pow (h2, two) z = Relu")
        dialect = model(text)
        for tensor in dialect.graph.initializer:
            if tensor.name in ("half", "two"):
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(shape), tensor.name))
        check_twins(tmp_path, dialect, model(text))

    @pytest.mark.parametrize("pool", sorted(POOLS))
    def test_pools_over_all_places(self, pool: str, tmp_path: Path) -> None:
        text, kind = conv_net("Relu (d)"), "Max" if "max" in pool else "Average"
        plain = text.replace("GlobalAveragePool", f"Global{kind}Pool")
        check_twins(tmp_path, model(text.replace(POOLED, POOLS[pool])), model(plain))

    @pytest.mark.parametrize("parts", sorted(PARTS))
    def test_parts_of_a_value(self, parts: str, tmp_path: Path) -> None:
        """As slices, one of them taken twice, or entry by entry."""
        dialect, plain = PARTS[parts]
        check_twins(tmp_path, *(model(conv_net("").replace("z =", nodes)) for nodes in (dialect, plain)))

    @pytest.mark.parametrize("style", sorted(SHAPED))
    def test_what_is_only_reshaped(self, style: str, tmp_path: Path) -> None:
        check_twins(tmp_path, model(conv_net("Relu (d)").replace(FLAT, SHAPED[style])), model(conv_net("Relu (d)")))

    @pytest.mark.parametrize("style", sorted(SCORES))
    def test_scores_and_what_scales_them(self, style: str, tmp_path: Path) -> None:
        check_twins(tmp_path, model(HEADS.format(SCORES[style]), TOKENS), model(HEADS.format(SCALED), TOKENS))

    @pytest.mark.parametrize("lowest", ["lowest", "minus_ten_thousand"])
    def test_masks_of_several_types(self, lowest: str, tmp_path: Path) -> None:
        """Numbers that hide: as low as float16 has them, as float32 does, or just low."""
        masked = HEADS.format(SCALED.replace("sc = Mul", "s1 = Mul") + " c = Greater (s1, minus) sc = Where (c, s1, {})")
        check_twins(tmp_path, model(masked.format(lowest), TOKENS), model(masked.format("lowest_half"), TOKENS))

    def test_softplus_as_torch_has_it(self, tmp_path: Path) -> None:
        spelled = conv_net("Where (d1, d, d2)").replace("z = Where", "d1 = Greater (d, twenty) d2 = Softplus (d) z = Where")
        check_twins(tmp_path, model(spelled), model(conv_net("Softplus (d)")))

    @pytest.mark.parametrize(("epsilon", "other"), [(1e-12, 1e-7), (1e-12, 1e-6), (1e-5, float(np.float16(1e-5)))])
    def test_epsilons_of_several_types(self, epsilon: float, other: float, tmp_path: Path) -> None:
        norms = (f"n = LayerNormalization <axis = -1, epsilon = {e:.12f}> (a, s, t)" for e in (epsilon, other))
        check_twins(tmp_path, *(model(token_net(norm, "u = Relu (c)"), TOKENS) for norm in norms))

    def test_epsilons_that_differ(self, tmp_path: Path) -> None:
        norms = (f"n = LayerNormalization <axis = -1, epsilon = {e}> (a, s, t)" for e in (0.00001, 0.001))
        paths = {n: saved(tmp_path, n, model(token_net(v, "u = Relu (c)"), TOKENS)) for n, v in zip("ab", norms, strict=True)}
        roles = analyse(load_all(paths)).overlay.roles
        assert {len(r.members) for r in roles if r.op == "LayerNormalization"} == {1}

    @pytest.mark.parametrize("inverse", ["ni = Reciprocal (nr)", "ni = Div (one, nr)"], ids=["reciprocal", "one over"])
    def test_products_with_an_inverse(self, inverse: str, tmp_path: Path) -> None:
        spelled = SPELLED_RMS.replace("nd = Div (a, nr)", f"{inverse} nd = Mul (a, ni)")
        plain = model(token_net(SPELLED_RMS, "u = Relu (c)"), TOKENS)
        check_twins(tmp_path, model(token_net(spelled, "u = Relu (c)"), TOKENS), plain)

    def test_what_is_computed_twice_or_expanded(self, tmp_path: Path) -> None:
        once = "d1 = Tanh (d) d2 = GlobalMaxPool (d1) d3 = Mul (d, d1) d4 = Add (d3, d2)"
        twice = "d1 = Tanh (d) d5 = Tanh (d) d2 = GlobalMaxPool (d5) d3 = Mul (d, d1) d6 = Expand (d2, maps) d4 = Add (d3, d6)"
        plain, twice = (conv_net("Relu (d4)").replace("z = Relu", f"{nodes} z = Relu") for nodes in (once, twice))
        check_twins(tmp_path, model(twice), model(plain))

    def test_padding_in_a_node_of_its_own(self, tmp_path: Path) -> None:
        text = conv_net("Relu (d)")
        padded = text.replace("d = Conv <pads = [1,1,1,1]> (b,", "bp = Pad (b, ring) d = Conv (bp,")
        check_twins(tmp_path, model(padded), model(text))

    def test_padding_that_no_layer_can_do(self, tmp_path: Path) -> None:
        """With other numbers than zeros, or of channels."""
        text = conv_net("Relu (d)")
        edge = text.replace("d = Conv <pads = [1,1,1,1]> (b,", 'bp = Pad <mode = "edge"> (b, ring) d = Conv (bp,')
        more = text.replace("Relu (d)", "Pad (d, deeper)").replace("(f, fc, fcb)", "(f, fcw, fcb)")
        for text in (edge, more):
            paths = {n: saved(tmp_path, n, model(text)) for n in "ab"}
            nets = load_all(paths)
            assert [n.op for n in nets[0].nodes].count("Pad") == 1
            check_tasks(fuse(list(nets)), nets, 1e-4)

    def test_nodes_that_cut_off_or_pad_nothing(self, tmp_path: Path) -> None:
        idle = conv_net("Relu (d3)").replace("z = Relu", "d1 = Slice (d, zero_i, eight_i, one_i) d3 = Pad (d1, none) z = Relu")
        check_twins(tmp_path, model(idle), model(conv_net("Relu (d)")))

    @pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
    def test_a_softmax_of_an_older_opset(self, op: str, tmp_path: Path) -> None:
        text = conv_net(f"{op} <axis = 3> (d)")
        check_twins(tmp_path, model(text, opset=11), model(text))

    def test_external_data(self, tmp_path: Path) -> None:
        plain, other = saved(tmp_path, "plain", model(conv_net("Relu (d)"))), tmp_path / "apart.onnx"
        onnx.save(model(conv_net("Relu (d)")), other, save_as_external_data=True, location="apart.bin", size_threshold=0)
        assert (tmp_path / "apart.bin").stat().st_size > 0
        a, b = load_all({"a": plain, "b": other})
        assert {k: v.tobytes() for k, v in a.params.items()} == {k: v.tobytes() for k, v in b.params.items()}


class TestCopies:
    def test_a_softmax_of_an_older_opset_over_two_axes(self, tmp_path: Path) -> None:
        net = check_copies(tmp_path, model(conv_net("Softmax <axis = 2> (d)"), opset=11))
        assert "Flatten" in {n.op for n in net.nodes}

    @pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 20, 22])
    def test_channels_last(self, opset: int, tmp_path: Path) -> None:
        text = NHWC if opset < 18 else NHWC.replace("<axes = [1,2], keepdims = 0> (z)", "<keepdims = 0> (z, axes_hw)")
        made = model(text, "float[N,8,8,3] x", opset)
        if opset >= 18:
            made.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.int64), "axes_hw"))
        check_copies(tmp_path, made)

    def test_a_head_that_takes_the_largest(self, tmp_path: Path) -> None:
        head = "p0 = ReduceMax <axes = [1,2]> (z) p1 = Squeeze (p0, hw) p2 = Unsqueeze (p1, hw1) p = Squeeze (p2, hw1)"
        text = NHWC.replace("p = ReduceMean <axes = [1,2], keepdims = 0> (z)", head)
        made = model(text, "float[N,8,8,3] x")
        made.graph.initializer.extend(
            numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("hw", [1, 2]), ("hw1", [1]))
        )
        check_copies(tmp_path, made)

    @pytest.mark.parametrize("op", ["ReduceMax", "ReduceMean", "ReduceL2"])
    def test_a_number_that_is_made_of_all_channels(self, op: str, tmp_path: Path) -> None:
        """It has no axes at all; so has what is computed from it."""
        number = f"m = {op} <keepdims = 0> (d) n = Add (m, one) z = Div (d, n)"
        check_copies(tmp_path, model(conv_net("Identity (d)").replace("z = Identity (d)", number)))


FUSED_CONV = 'b = com.microsoft.FusedConv <pads = [1,1,1,1], activation = "Relu"> (x, c1, c1b)'
SKIPPED = "a2 = Tanh (a) n = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> (a, a2, s, t, b3)"
HALF_PRODUCT = "com.microsoft.FusedMatMul <alpha = 0.5> (n, w2)"
VENDOR = {
    "FusedConv": conv_net("Relu (d)").replace("a = Conv <pads = [1,1,1,1]> (x, c1, c1b) b = Relu (a)", FUSED_CONV),
    "Gelu": token_net(LAYER_NORM, "u = com.microsoft.Gelu (c)"),
    "BiasGelu": token_net(LAYER_NORM, "u = com.microsoft.BiasGelu (c0, b2)"),
    "FastGelu": token_net(LAYER_NORM, "u = com.microsoft.FastGelu (c0, b2)"),
    "QuickGelu": token_net(LAYER_NORM, "u = com.microsoft.QuickGelu <alpha = 1.702> (c)"),
    "FusedMatMul": token_net(LAYER_NORM, "u = Relu (c)").replace("MatMul (n, w2)", HALF_PRODUCT),
    "SkipLayerNormalization": token_net(SKIPPED, "u = Relu (c)"),
    "Attention": ATTENTION.format("u = com.microsoft.Attention <num_heads = 3> (a, wqkv, bqkv)"),
    "MultiHeadAttention": ATTENTION.format(
        "q = MatMul (a, wq) kk = MatMul (a, wk) v = MatMul (a, wv) "
        "u = com.microsoft.MultiHeadAttention <num_heads = 3> (q, kk, v, bqkv)"
    ),
}


class TestVendor:
    @pytest.mark.parametrize("name", sorted(VENDOR))
    def test_fused_operators_of_onnx_runtime(self, name: str, tmp_path: Path) -> None:
        port = IMAGE if name == "FusedConv" else TOKENS
        net = check_copies(tmp_path, model(VENDOR[name], port, imports=', "com.microsoft": 1'))
        assert not [n.op for n in net.nodes if n.op.startswith("com.microsoft")]

    @pytest.mark.parametrize("order", ["a, k0", "k0, a"])
    def test_a_bias_goes_to_the_layer_that_it_is_of(self, order: str, tmp_path: Path) -> None:
        branch = "a2 = Tanh (a) k0 = MatMul (a2, wq)"
        fused = f"{branch} n = com.microsoft.SkipLayerNormalization <epsilon = 0.00001> ({order}, s, t, bq)"
        plain = f"{branch} k1 = Add (k0, bq) k2 = Add (k1, a) n = LayerNormalization <axis = -1> (k2, s, t)"
        dialect = model(token_net(fused, "u = Relu (c)"), TOKENS, imports=', "com.microsoft": 1')
        check_twins(tmp_path, dialect, model(token_net(plain, "u = Relu (c)"), TOKENS))

    def test_a_swish_is_no_quick_gelu(self, tmp_path: Path) -> None:
        fused = token_net(LAYER_NORM, "u = com.microsoft.QuickGelu <alpha = 1.0> (c)")
        plain = token_net(LAYER_NORM, "u0 = Sigmoid (c) u = Mul (c, u0)")
        check_twins(tmp_path, model(fused, TOKENS, imports=', "com.microsoft": 1'), model(plain, TOKENS))

    @pytest.mark.parametrize(("family", "opset"), [("conv", 17), ("tokens", 17), ("tokens", 13), ("rms", 17)])
    def test_files_that_onnx_runtime_has_optimised(self, family: str, opset: int, tmp_path: Path) -> None:
        norm = SPELLED_RMS if family == "rms" else SPELLED_NORM
        text, port = (conv_net("Relu (d)"), IMAGE) if family == "conv" else (token_net(norm, SPELLED_GELU), TOKENS)
        plain = model(text, port, opset)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(plain.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(tmp_path / "optimised.onnx")
        assert {n.domain for n in optimised.graph.node} > {""}
        assert ("SimplifiedLayerNormalization" in {n.op_type for n in optimised.graph.node}) == (family == "rms")
        check_copies(tmp_path, optimised)

    def test_an_optimised_file_with_params_beside_it(self, tmp_path: Path) -> None:
        """A norm that ONNX does not have yet makes the file another one before onnx checks it."""
        early, path = model(token_net(LAYER_NORM, "u = Relu (c)"), TOKENS), tmp_path / "net.onnx"
        early.opset_import[0].version = 13
        onnx.save(early, path, save_as_external_data=True, location="net.data", size_threshold=0)
        plain = load(saved(tmp_path, "plain", model(token_net(LAYER_NORM, "u = Relu (c)"), TOKENS)))
        assert {k: a.tobytes() for k, a in load(path).params.items()} == {k: a.tobytes() for k, a in plain.params.items()}
