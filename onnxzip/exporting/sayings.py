"""What the nets' files say of themselves (labels, a licence, a version), kept in the fused file and given back to each task.

    the same in all files   stands in the fused file as it stood there
    anything else           stands under TASK.key in its metadata_props; the task's origin tells which entry is which

Only what onnxzip has not written itself: its own entries are `metadata`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from onnxzip.errors import InvalidModelError
from onnxzip.exporting.metadata import PREFIX
from onnxzip.exporting.origin import Origin
from onnxzip.runtime import can_stand

Texts = Mapping[str, str]


@dataclass(frozen=True)
class Said:
    """What a file says of itself.

    Attributes:
        entries: of its metadata_props, but for onnxzip's.
        fields: doc_string, domain, model_version, doc_string of its graph, as text; those that say something.
    """

    entries: Texts = field(default_factory=dict)
    fields: Texts = field(default_factory=dict)


def said_by_task(entries: Texts, fields: Texts, origins: Mapping[str, Origin], where: str) -> dict[str, Said]:
    """What the original of each task of a fused file has said.

    Args:
        entries, fields: of the fused file.
        origins: of all its tasks.

    Raises:
        InvalidModelError: a task's version has become no number.
    """
    named = {name for origin in origins.values() for name in (*origin.entries.values(), *origin.fields.values())}
    common = {key: text for key, text in entries.items() if not key.startswith(PREFIX) and key not in named}
    found = {}
    for task, origin in origins.items():
        own = {key: entries[name] for key, name in origin.fields.items() if name in entries}
        for key, text in own.items():
            if not can_stand(key, text):
                raise InvalidModelError(f"{where}: its entry {origin.fields[key]!r} is {text!r}, which cannot be a {key}.")
        mine = {key: entries[name] for key, name in origin.entries.items() if name in entries}
        found[task] = Said({**common, **mine}, {**fields, **own})
    return found


def merged_sayings(said: Mapping[str, Said], origins: Mapping[str, Origin]) -> tuple[Said, dict[str, Origin]]:
    """What a fused file says for its tasks, and their origins, which tell what is whose.

    Args:
        said: by task, what its original says.
        origins: by task.
    """
    entries, fields = _agreed([s.entries for s in said.values()]), _agreed([s.fields for s in said.values()])
    taken = {key for s in said.values() for key in s.entries}
    own: dict[str, str] = {}
    told = {}
    for task, s in said.items():
        names = []
        for texts, common in ((s.entries, entries), (s.fields, fields)):
            names.append({key: _fresh(task, key, taken) for key in texts if key not in common})
            own |= {name: texts[key] for key, name in names[-1].items()}
        told[task] = replace(origins[task], entries=names[0], fields=names[1])
    return Said({**entries, **own}, fields), told


def _agreed(texts: list[Texts]) -> dict[str, str]:
    """What all say."""
    return {key: text for key, text in texts[0].items() if all(other.get(key) == text for other in texts)}


def _fresh(task: str, key: str, taken: set[str]) -> str:
    """A name that no entry has, and that is none of onnxzip's; it is taken then."""
    wishes = (f"{'_' * k}{task}.{key}" for k in count())
    name = next(n for n in wishes if n not in taken and not n.startswith(PREFIX))
    taken.add(name)
    return name
