"""A settings file as checked values: where a name is found, and every fault with its line and the nearest known key."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from conf.errors import Fault, SettingsError
from conf.sections.section import CrossFaultsError, Section, section_at

Model = TypeVar("Model", bound=Section)


class PlainLoader(yaml.SafeLoader):
    """Safe YAML in which a day stays text: an unquoted 2026-01-31 is no date object, and 2026-02-30 no error of the parser."""


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def packaged_names() -> list[str]:
    """Configurations that come with the package, by name."""
    return sorted(p.name.removesuffix(".yaml") for p in resources.files("conf").iterdir() if p.name.endswith(".yaml"))


def load_as(model: type[Model], name_or_file: str, overrides: Sequence[str] = ()) -> Model:
    """The model's settings from a packaged name ("demo") or a YAML file, with `a.b=c` overrides applied (values are read as YAML).

    Raises:
        SettingsError: every fault at once, each with its line in the file and, for an unknown key, the nearest known one.
    """
    where, text = _read(name_or_file)
    try:
        node = yaml.compose(text, Loader=PlainLoader)
        data = yaml.load(text, Loader=PlainLoader) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(where, [Fault("not valid YAML", " ".join(str(error).split()))]) from None
    if not isinstance(data, dict):
        raise SettingsError(where, [Fault("the file must hold sections (key: value)", f"found: {type(data).__name__}")])
    twice = list(_twice(node))
    if twice:
        raise SettingsError(where, twice)
    lines = dict(_lines(node))
    for override in overrides:
        _apply(where, data, override)
        lines[tuple(override.split("=", 1)[0].strip().split("."))] = 0
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise SettingsError(where, [fault for e in error.errors() for fault in _faults(model, dict(e), lines)]) from None


def _read(name_or_file: str) -> tuple[str, str]:
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") or "/" in name_or_file:
        try:
            return str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(str(path), [Fault("cannot read the settings file", str(error))]) from None
    if name_or_file not in packaged_names():
        raise SettingsError(
            f"--config {name_or_file}",
            [Fault("no such configuration", f"packaged: {', '.join(packaged_names())}", "or give a file: --config my.yaml")],
        )
    return f"{name_or_file} (packaged)", resources.files("conf").joinpath(f"{name_or_file}.yaml").read_text(encoding="utf-8")


def _apply(where: str, data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(where, [Fault(f"--set {override!r} is not a.b=value")])
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = data.get(parent)
        data[parent] = dict(inner) if isinstance(inner, dict) else {}
        data = data[parent]
    try:
        data[last] = yaml.load(value, Loader=PlainLoader)
    except (yaml.YAMLError, ValueError):
        raise SettingsError(where, [Fault(f"--set {override!r}: the value is not valid YAML")]) from None


def _lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)


def _twice(node: yaml.Node | None, prefix: str = "") -> Iterator[Fault]:
    """Keys given twice in one mapping: YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first:
                yield Fault(f"key {prefix}{name} stands twice", f"lines {first[name]} and {line}", "remove one")
            first.setdefault(name, line)
            yield from _twice(value, f"{prefix}{name}.")


def _at(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> str:
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    return "" if line is None else " (--set)" if line == 0 else f" (line {line})"


def _faults(model: type[Section], error: Mapping[str, Any], lines: Mapping[tuple[str, ...], int]) -> Iterator[Fault]:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, CrossFaultsError):
        for text in cause.faults:
            name, _, what = text.partition(": ")
            yield Fault(f"{name}{_at(tuple(name.split('.')), lines)}: {what}")
    else:
        yield _fault(model, error, lines)


def _fault(model: type[Section], error: Mapping[str, Any], lines: Mapping[tuple[str, ...], int]) -> Fault:
    path = tuple(str(part) for part in error["loc"])
    at = _at(path, lines)
    name = ".".join(path) or "settings"
    if error["type"] == "extra_forbidden":
        known = list(section_at(model, path[:-1]).model_fields)
        near = get_close_matches(path[-1], known, n=1)
        return Fault(f"unknown key {name}{at}", f"known: {', '.join(known)}", f"did you mean: {near[0]} ?" if near else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(error.get("input"), dict | Section) else f"found: {error.get('input')!r}"
    return Fault(f"{name}{at}: {message}", shown)
