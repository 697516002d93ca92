"""What a model says of itself: metadata_props, doc_string, domain, model_version, doc_string of its graph and of its ports."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

TEXTS, NUMBER, GRAPH = ("doc_string", "domain"), "model_version", "graph.doc_string"
LARGEST = (1 << 63) - 1


def entries_of(model: ModelProto) -> dict[str, str]:
    """The model's metadata_props."""
    return {entry.key: entry.value for entry in model.metadata_props}


def fields_of(model: ModelProto) -> dict[str, str]:
    """The fields that say something, as text."""
    found = {name: str(value) for name in (*TEXTS, NUMBER) if (value := getattr(model, name))}
    return found | ({GRAPH: model.graph.doc_string} if model.graph.doc_string else {})


def put_fields(model: ModelProto, fields: Mapping[str, str]) -> None:
    """Let a model say this and nothing else."""
    for name in TEXTS:
        setattr(model, name, fields.get(name, ""))
    model.model_version = int(fields.get(NUMBER, "0"))
    model.graph.doc_string = fields.get(GRAPH, "")


def can_stand(name: str, text: str) -> bool:
    """Whether a text can be put into a field."""
    return name != NUMBER or (text.removeprefix("-").isdecimal() and abs(int(text)) <= LARGEST)


def docs_of(model: ModelProto) -> dict[str, str]:
    """What a model says of its inputs and outputs, by their names."""
    return {port.name: port.doc_string for port in (*model.graph.input, *model.graph.output) if port.doc_string}


def put_docs(model: ModelProto, docs: Mapping[str, str]) -> None:
    """Let a model say this of its inputs and outputs, and nothing else."""
    for port in (*model.graph.input, *model.graph.output):
        port.doc_string = docs.get(port.name, "")
