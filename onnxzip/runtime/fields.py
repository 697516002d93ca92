"""What a model says of itself outside of its graph and its metadata_props: doc_string, domain, model_version."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

TEXTS, NUMBER = ("doc_string", "domain"), "model_version"
LARGEST = (1 << 63) - 1


def fields_of(model: ModelProto) -> dict[str, str]:
    """The fields that say something, as text."""
    return {name: str(value) for name in (*TEXTS, NUMBER) if (value := getattr(model, name))}


def put_fields(model: ModelProto, fields: Mapping[str, str]) -> None:
    """Let a model say this and nothing else."""
    for name in TEXTS:
        setattr(model, name, fields.get(name, ""))
    model.model_version = int(fields.get(NUMBER, "0"))


def can_stand(name: str, text: str) -> bool:
    """Whether a text can be put into a field."""
    return name != NUMBER or (text.removeprefix("-").isdecimal() and abs(int(text)) <= LARGEST)
