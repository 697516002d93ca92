"""Every operator of ONNX's default domain has a record, or stands in the list of those that have none, with its reason."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from onnxzip.ops import listed, registered, why_unknown

ROOT = Path(__file__).parent.parent
KNOWN = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}


def test_every_operator_is_registered_or_listed_and_none_is_both() -> None:
    names, left = {operator.name for operator in registered()}, set(listed())
    assert not names & left
    assert names | left == KNOWN


@pytest.mark.parametrize("name", sorted(listed()))
def test_a_listed_operator_is_reported_with_its_reason(name: str) -> None:
    assert why_unknown(name) == f"operator {name} is not registered: {listed()[name]}"


def test_other_operators() -> None:
    assert why_unknown("Conv") is None
    assert why_unknown("com.strange.Conv") == "operator com.strange.Conv is not registered"


def test_the_readme_has_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    import operators

    _, rest = (ROOT / "README.md").read_text().split(operators.BEGIN)
    assert rest.split(operators.END)[0].strip() == "\n".join(operators.lines())
