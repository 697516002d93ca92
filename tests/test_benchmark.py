"""The benchmark in tools/: cases are run once, their files are read back, tables and CSV come from them."""

from __future__ import annotations

import csv
import io
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the tools be imported as they import each other."""
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.mark.usefixtures("tools")
def test_a_case_is_run_once_and_stands_in_csv_and_table(tmp_path: Path) -> None:
    import bench_show
    from bench_cases import PAIRS, Case
    from bench_run import Bench

    bench = Bench(tmp_path, None)
    case = Case("lenet300", PAIRS[0], "average")
    found = bench.run(case)
    file = tmp_path / f"{case.name}.json"
    written = file.stat().st_mtime_ns
    assert bench.run(case) == found and file.stat().st_mtime_ns == written
    assert found["increase"] == pytest.approx(np.mean(np.subtract(found["after"], found["before"])))
    assert found["test_images"] == [2000, 2000] and 0.49 < found["size"] < 0.51
    results = bench_show.results_of(tmp_path)
    assert list(results) == [case]
    (row,) = csv.DictReader(io.StringIO(bench_show.to_csv(results)))
    assert row["method"] == "average" and float(row["increase"]) == pytest.approx(found["increase"], abs=1e-3)
    assert f"| `average` | {found['increase']:.2f} |" in bench_show.tables(results)["methods"]


@pytest.mark.usefixtures("tools")
def test_an_interrupted_retraining_is_no_result(tmp_path: Path) -> None:
    from bench_cases import PAIRS, Case
    from bench_run import Bench

    bench = Bench(tmp_path, None)
    case = Case("lenet300", PAIRS[0], "zip", steps=100_000)
    bench.start(case._replace(steps=0))
    ending = threading.Timer(3, signal.raise_signal, [signal.SIGINT])
    ending.start()
    with pytest.raises(KeyboardInterrupt):
        bench.run(case)
    assert bench.known(case) is None


@pytest.mark.usefixtures("tools")
def test_published_results_are_taken_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmark
    from bench_cases import PAIRS, Case
    from bench_run import Bench
    from bench_show import results_of, to_csv

    known, taken = tmp_path / "known", tmp_path / "taken"
    case = Case("lenet300", PAIRS[0], "average")
    Bench(known, None).run(case)
    (tmp_path / "known.csv").write_text(to_csv(results_of(known)))
    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "take", "--work", str(taken), "--csv", str(tmp_path / "known.csv")]
    )
    benchmark.main()
    assert to_csv(results_of(taken)) == (tmp_path / "known.csv").read_text()
    monkeypatch.setattr(Bench, "_run", None)
    assert Bench(taken, None).run(case)["test_images"] == [2000, 2000]


@pytest.mark.usefixtures("tools")
def test_cells_of_a_family_are_means_over_the_same_sets() -> None:
    """Of three sets the first has all, the second lacks a method, the third a share."""
    import bench_show
    from bench_cases import PAIRS, Case

    increases = {("zip", 0): 1.0, ("zip", 1): 3.0, ("mtz", 0): 5.0, ("zip", 2): 7.0, ("mtz", 2): 9.0}
    results = {Case("vgg", PAIRS[k], m): {"increase": x} for (m, k), x in increases.items()}
    results |= {Case("vgg", PAIRS[k], m, 0.5): {"increase": 1.5} for m in ("zip", "mtz") for k in (0, 1)}
    results |= {Case("vgg", PAIRS[0], "mtz", seed=1): {"increase": 6.0}}
    whole, _, half, *_ = columns = bench_show.by_share()
    methods = ("zip", "mtz")
    assert bench_show.common_sets(results, "vgg", methods, [whole]) == [PAIRS[0], PAIRS[2]]
    assert bench_show.common_sets(results, "vgg", methods, [whole, half]) == [PAIRS[0]]
    assert bench_show.cell(results, whole, "vgg", [PAIRS[0], PAIRS[2]], "zip") == "4.00"
    assert bench_show.cell(results, whole, "vgg", [PAIRS[0]], "mtz") == "5.50 ± 0.71"
    assert "| vgg | 1 | `zip` | 1.00 |  | 1.50 |" in bench_show.table(results, ["vgg"], methods, columns)


@pytest.mark.usefixtures("tools")
def test_names_of_cases_differ_and_are_read_back(tmp_path: Path) -> None:
    import bench_show
    from bench_cases import full

    cases = full(("lenet300",), (0, 1))
    assert len({c.name for c in cases}) == len(cases)
    for case in cases[::50]:
        (tmp_path / f"{case.name}.json").write_text("{}")
    assert set(bench_show.results_of(tmp_path)) == set(cases[::50])


@pytest.mark.usefixtures("tools")
def test_the_nets_of_every_case_exist() -> None:
    from bench_cases import full
    from figures import nets_of

    assert all(file.exists() for case in full() for file in nets_of(case.family, case.tasks).values())


@pytest.mark.usefixtures("tools")
def test_courses_stand_in_the_table_of_the_readme() -> None:
    """Starts without a course are left out, and so are methods that the README does not name."""
    import bench_show
    from bench_cases import PAIRS, Case

    case = Case("vgg", PAIRS[0], "zip")
    results = {case._replace(steps=n, seed=s): {"increase": x} for n, s, x in ((0, 0, 3.0), (30, 0, 2.0), (30, 1, 1.0))}
    results |= {case._replace(tasks=PAIRS[1]): {"increase": 4.0}, case._replace(method="regmean", steps=30): {"increase": 5.0}}
    _, _, *lines = bench_show.retraining_table(results).splitlines()
    assert lines == ["| vgg | fashion-low + fashion-high | zip | 3.00 | 1.50 ± 0.71 |  |  |  |"]


@pytest.mark.usefixtures("tools")
def test_growth_exponents_are_slopes_in_logarithms() -> None:
    from bench_cost import exponent

    x = [1.0, 2.0, 4.0, 8.0]
    assert exponent(x, [v**2.5 for v in x]) == pytest.approx(2.5)
