"""The page of `inspect --html`, in a real browser: no network, no errors, a click opens a node's table, themes, print.

Needs Chromium and the package playwright (no browser of its own is fetched): pip install playwright; apt-get install chromium.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from architectures import Architecture, Maker, model_of
from merging import MODELS, failed, images, run, write_net

import onnxzip

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)
LIMIT = 3_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a half-shared net, m.onnx, its report, and its page."""
    folder = tmp_path_factory.mktemp("page")
    files = {t: write_net(folder / f"{t}.onnx", k) for k, t in enumerate(("tops", "shoes"))}
    merged = onnxzip.merge(files, images(120), share=0.5)
    merged.save(folder / "m.onnx")
    merged.save_report(folder / "r.json")
    given = [a for t, f in files.items() for a in ("--against", f"{t}={f}")]
    assert run("inspect", folder / "m.onnx", "--html", folder / "m.html", "--report", folder / "r.json", *given).code == 0
    return folder


@dataclass
class Seen:
    """A page that was opened, with all that it said and asked for."""

    page: Any
    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def seen(browser: Any, path: Path, scheme: str = "light") -> Seen:
    """Open a page; everything on its console and every request is kept."""
    found = Seen(browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=scheme).new_page())
    found.page.on("console", lambda message: found.told.append(f"{message.type}: {message.text}"))
    found.page.on("pageerror", lambda error: found.told.append(str(error)))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(path.as_uri())
    assert found.page.evaluate("document.documentElement.dataset.ready") is not None, found.told
    return found


def deep_net(seed: int, blocks: int) -> onnx.ModelProto:
    """A residual net of five nodes a block."""

    def build(m: Maker, width: int, classes: int) -> str:
        x = m.relu(m.conv("image", (width, 3, 3, 3)))
        for _ in range(blocks):
            y = m.conv(m.relu(m.conv(x, (width, width, 3, 3))), (width, width, 3, 3))
            x = m.relu(m.op("Add", x, y))
        return m.pool_head(x, width, classes)

    return model_of(Architecture(build), seed)


class TestInTheBrowser:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_opens_without_errors_and_without_a_network(self, browser: Any, fused: Path, scheme: str) -> None:
        found = seen(browser, fused / "m.html", scheme)
        assert found.told == [] and found.asked == [(fused / "m.html").as_uri()]
        assert found.page.evaluate("document.documentElement.dataset.theme") == scheme
        found.page.click("#theme")
        assert found.page.evaluate("document.documentElement.dataset.theme") == {"light": "dark", "dark": "light"}[scheme]
        ids = found.page.eval_on_selector_all("section.block", "all => all.map((s) => s.id)")
        assert ids == ["spaces", "pairs", "costs", "fidelity", "nodes"]

    def test_a_click_opens_the_table_of_a_node(self, browser: Any, fused: Path) -> None:
        report = json.loads(run("inspect", fused / "m.onnx", "--json").out)
        found = seen(browser, fused / "m.html")
        node = next(n for n in report["nodes"] if n["name"] == "tops_second")
        found.page.click('.node[aria-label="tops_second"]')
        text = found.page.inner_text("#panel")
        for word in ("tops_second", "Gemm", node["line"], f"{node['params']:,}", f"{node['macs']:,}"):
            assert word in text
        assert found.page.locator(".node.chosen").count() == 1
        found.page.keyboard.press("Tab")
        found.page.click("#panel .close")
        assert not found.page.is_visible("#panel") and found.told == []

    def test_colours_are_owners_and_widths_are_channels(self, browser: Any, fused: Path) -> None:
        page = seen(browser, fused / "m.html").page
        strokes = {
            name: page.get_attribute(f'.node[aria-label="{name}"] rect.box', "stroke")
            for name in ("tops_shoes_second", "tops_second", "shoes_second", "tops_shoes_first")
        }
        assert strokes["tops_shoes_second"] == strokes["tops_shoes_first"] and len(set(strokes.values())) == 3
        widths = dict(page.eval_on_selector_all(
            "path.edge", "all => all.map((p) => [p.querySelector('title').textContent, +p.getAttribute('stroke-width')])"
        ))
        by_channels = sorted((int(re.search(r"([\d,]+) channels", t)[1].replace(",", "")), w) for t, w in widths.items())  # type: ignore[index]
        assert by_channels[0][1] < by_channels[-1][1] and [w for _, w in by_channels] == sorted(w for _, w in by_channels)

    def test_the_trunk_stands_between_its_heads(self, browser: Any, fused: Path) -> None:
        page = seen(browser, fused / "m.html").page
        names = "tops_second", "tops_shoes_second", "shoes_second"
        boxes = [page.locator(f'.node[aria-label="{n}"]').bounding_box() for n in names]
        assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"] and len({round(b["y"]) for b in boxes}) == 1

    def test_search_and_every_node(self, browser: Any, fused: Path) -> None:
        report = json.loads(run("inspect", fused / "m.onnx", "--json").out)
        found = seen(browser, fused / "m.html")
        folded = found.page.locator(".node").count()
        found.page.check("#every")
        ports = len(report["inputs"]) + len(report["outputs"])
        assert found.page.locator(".node").count() == len(report["nodes"]) + ports > folded
        found.page.fill("#search", "maxpool")
        want = sum(n["op"] == "MaxPool" for n in report["nodes"])
        assert found.page.locator(".node.hit").count() == want and found.page.inner_text("#hits") == f"{want} found"
        found.page.press("#search", "Enter")
        assert "MaxPool" in found.page.inner_text("#panel") and found.told == []

    def test_the_table_of_all_nodes_can_be_sorted(self, browser: Any, fused: Path) -> None:
        page = seen(browser, fused / "m.html").page
        page.click("#nodes summary")
        page.click('#nodes th[data-sort="macs"]')
        number = "(r) => +r.cells[6].textContent.replaceAll(',', '')"
        cells = page.eval_on_selector_all("#nodes tbody tr", f"all => all.map({number})")
        assert cells == sorted(cells, reverse=True) and cells[0] > 0

    def test_print(self, browser: Any, fused: Path) -> None:
        """The whole graph is on the paper, and afterwards the drawing is as it was."""
        found = seen(browser, fused / "m.html", "dark")
        before = found.page.get_attribute("#drawing > g", "transform")
        paper = found.page.pdf(format="A4", print_background=True)
        assert paper.startswith(b"%PDF") and found.told == []
        assert found.page.get_attribute("#drawing > g", "transform") == before
        assert found.page.get_attribute("#drawing", "viewBox") is None

    def test_a_net_of_four_hundred_nodes(self, browser: Any, tmp_path: Path) -> None:
        for seed, task in enumerate("ab"):
            (tmp_path / f"{task}.onnx").write_bytes(deep_net(seed, 79).SerializeToString())
        merged = onnxzip.merge({t: tmp_path / f"{t}.onnx" for t in "ab"}, method="average", samples=32)
        merged.save(tmp_path / "m.onnx")
        assert run("inspect", tmp_path / "m.onnx", "--html", tmp_path / "m.html").code == 0
        assert (tmp_path / "m.html").stat().st_size < LIMIT
        found = seen(browser, tmp_path / "m.html")
        found.page.check("#every")
        assert found.page.locator(".node").count() > 400 and found.told == []
        places = found.page.eval_on_selector_all(".node", "all => all.map((n) => n.getAttribute('transform'))")
        assert len(set(places)) == len(places)

    def test_any_net(self, browser: Any, tmp_path: Path) -> None:
        assert run("inspect", MODELS / "mobilenet-digits.onnx", "--html", tmp_path / "n.html").code == 0
        found = seen(browser, tmp_path / "n.html")
        ids = found.page.eval_on_selector_all("section.block", "all => all.map((s) => s.id)")
        assert found.told == [] and ids == ["spaces", "costs", "nodes"]


class TestFiles:
    def test_it_is_one_small_file_that_says_how_it_was_measured(self, fused: Path) -> None:
        page = (fused / "m.html").read_text(encoding="utf-8")
        assert len(page) < LIMIT and "/*{" not in page and "sourceMappingURL" not in page
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
        assert data is not None
        latency = json.loads(data[1])["latency"]
        assert "one thread" in latency["how"] and "median" in latency["how"] and onnxzip.__version__
        names = [r["name"] for r in latency["runs"]]
        assert names == ["tops, original", "shoes, original", "this file", "tops alone", "shoes alone"]
        assert all(r["milliseconds"] > 0 and r["runs"] >= 9 for r in latency["runs"])

    def test_names_cannot_break_out_of_the_page(self, tmp_path: Path) -> None:
        model = onnx.load(write_net(tmp_path / "a.onnx", 1))
        model.graph.node[0].name = "</script><script>alert(1)</script><!--"
        onnx.save(model, tmp_path / "a.onnx")
        assert run("inspect", tmp_path / "a.onnx", "--html", tmp_path / "p.html").code == 0
        assert "</script><script>alert" not in (tmp_path / "p.html").read_text()

    def test_what_is_in_the_way_is_refused_first(self, fused: Path, tmp_path: Path) -> None:
        model = fused / "m.onnx"
        failed(2, "inspect", model, "--html", fused / "m.html", words=("m.html", "--force"))
        failed(2, "inspect", model, "--html", model, "--force", words=("m.onnx", "read by this command"))
        failed(2, "inspect", model, "--report", fused / "r.json", words=("--html",))
        page = "--html", tmp_path / "p.html", "--report", tmp_path / "r.json"
        failed(3, "inspect", model, *page, words=("r.json: cannot be read: No such file",))
        (tmp_path / "r.json").write_text("[]")
        failed(3, "inspect", model, *page, words=("r.json", "no report"))
        other = json.loads((fused / "r.json").read_text())
        other["tasks"]["tops"]["sha256"] = "0" * 64
        (tmp_path / "r.json").write_text(json.dumps(other))
        failed(3, "inspect", model, *page, words=("another merge",))
        other["tasks"]["hats"] = other["tasks"].pop("tops")
        (tmp_path / "r.json").write_text(json.dumps(other))
        said = failed(3, "inspect", model, *page, words=("nothing of task 'tops'", "hats"))
        assert "no report" not in said
        assert not (tmp_path / "p.html").exists()

    def test_originals_are_checked_as_verify_checks_them(self, fused: Path, tmp_path: Path) -> None:
        write_net(tmp_path / "other.onnx", 7)
        np.savez(tmp_path / "d.npz", x=images(40))
        page = "inspect", fused / "m.onnx", "--html", tmp_path / "p.html"
        failed(2, *page, "--against", f"hats={fused / 'tops.onnx'}", words=("no task 'hats'", "tops, shoes"))
        failed(3, *page, "--against", f"tops={tmp_path / 'd.npz'}", words=("d.npz", "not an ONNX file"))
        assert not (tmp_path / "p.html").exists()
        ran = run(*page, "--against", f"tops={tmp_path / 'other.onnx'}")
        assert ran.code == 0 and "other.onnx: is not byte for byte the file that task 'tops' was made from" in ran.err
        failed(3, "inspect", fused / "tops.onnx", *page[2:], "--force", "--against", f"tops={fused / 'tops.onnx'}",
               words=("tops.onnx", "was not made by onnxzip"))

    def test_node_data(self, fused: Path) -> None:
        """As Model Explorer reads it: by graph, by node, numbers, with a gradient from 0 to 1."""
        assert run("inspect", fused / "m.onnx", "--node-data", fused / "nodes.json").code == 0
        graph = onnx.load(fused / "m.onnx").graph
        (name, found), = json.loads((fused / "nodes.json").read_text()).items()
        assert name == graph.name and set(found["results"]) == {n.name for n in graph.node}
        assert {r["value"] for r in found["results"].values()} == {0.0, 1.0}
        assert [g["stop"] for g in found["gradient"]] == [0.0, 0.5, 1.0]
        assert all(re.fullmatch("#[0-9a-f]{6}", g["bgColor"]) for g in found["gradient"])
        failed(2, "inspect", fused / "tops.onnx", "--node-data", fused / "x.json", words=("tops.onnx", "no shares"))

    def test_the_wheel_takes_the_page_and_its_licences_along(self) -> None:
        held = {p.name for p in resources.files("onnxzip.inspection").joinpath("page").iterdir()}
        assert {"template.html", "style.css", "main.js", "vendor"} <= held
        vendor = resources.files("onnxzip.inspection").joinpath("page", "vendor")
        licences = vendor.joinpath("LICENSES.txt").read_text(encoding="utf-8")
        for library in ("d3", "plot", "dagre"):
            assert f"{library} " in licences.lower()
        assert licences.count("Permission ") == 3
        patterns = (Path(__file__).parent.parent / "pyproject.toml").read_text()
        assert '"page/*", "page/vendor/*"' in patterns and metadata.version("onnxzip")

    def test_latencies_are_of_real_runs(self, fused: Path) -> None:
        from onnxzip.inspection.latency import median_milliseconds

        milliseconds, runs = median_milliseconds("m", fused / "m.onnx")
        assert np.isfinite(milliseconds) and runs >= 9
