"""Command-line flags and YAML keys derived from the option records of `config`.

A command is a function that takes records; `derived` gives it one flag per field. What is given on the command line overrides
the file given with --config, which overrides the defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
import yaml

from onnxzip.errors import UsageError
from onnxzip.values import dashed, flag_of, nearest, read_option

Result = TypeVar("Result")
CONFIG = "config"


def derived(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function with each parameter that is an option record replaced by the record's fields."""
    hints = get_type_hints(function, include_extras=True)
    records = {n: t for n, t in hints.items() if is_dataclass(t) and isinstance(t, type)}

    def call(**given: Any) -> Result:
        names = {f.name for record in records.values() for f in fields(record)}
        flags = {k: v for k, v in given.items() if k in names and v not in (None, [], ())}
        config = read_config(given[CONFIG], names) if given.get(CONFIG) else {}
        rest = {k: v for k, v in given.items() if k not in names}
        return function(**rest, **{n: record_from(t, config, flags) for n, t in records.items()})

    plain = [p for n, p in inspect.signature(function).parameters.items() if n not in records]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in plain]
    parameters += [_parameter(f) for record in records.values() for f in fields(record)]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return call


def record_from(record: type[Any], config: Mapping[str, Any], flags: Mapping[str, Any]) -> Any:
    """An option record from a file's values and those of the command line, which win.

    Raises:
        UsageError: a value cannot be used.
    """
    values = {}
    for entry in fields(record):
        source = flags if entry.name in flags else config
        if source.get(entry.name) is not None:
            values[entry.name] = read_option(entry, source[entry.name])
    return record(**values)


class _Loader(yaml.SafeLoader):
    """As YAML's own, but it refuses a key that stands twice, of which only the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} stands there twice; write `{key}: [.., ..]` for several values")
        return super().construct_mapping(node, deep)


def read_config(path: Path, known: set[str]) -> dict[str, Any]:
    """Options by name from a YAML file.

    Raises:
        UsageError: it cannot be read, or holds a key that is no option.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'no text'})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds a {type(content).__name__}, not options as `name: value`")
    options = {str(k).replace("-", "_"): v for k, v in content.items()}
    for key in options:
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean {dashed(near)!r}?" if near else ""
            raise UsageError(
                f"{path}: {dashed(key)!r} is no option{hint} (options: {', '.join(sorted(map(dashed, known)))})"
            )
    return options


def _parameter(entry: Field[Any]) -> inspect.Parameter:
    """A field as a parameter whose default None tells that it was not given."""
    flag = flag_of(entry.metadata)
    assert entry.default is not MISSING
    shown = flag.shown or _shown(entry.default)
    text = f"{flag.help} [default: {shown}]" if shown else flag.help
    option = typer.Option(f"--{dashed(entry.name)}", help=text, metavar=flag.metavar or None, show_default=False)
    kind: Any = list[str] if flag.many else bool if isinstance(entry.default, bool) else str
    return inspect.Parameter(
        entry.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _shown(default: Any) -> str:
    if default is None or default is False or default == ():
        return ""
    if isinstance(default, tuple):
        return ", ".join(f"{v:g}" if k == "*" else f"{k}={v:g}" for k, v in default)
    return str(default)
