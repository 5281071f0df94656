"""Settings as YAML text, each key under a comment that says what it means."""

from collections.abc import Sequence
from typing import Any

import yaml

from conf.sections.section import Section
from conf.sections.source import FieldSpec


def to_yaml(settings: Section, *, only: Sequence[str] | None = None) -> str:
    """The settings as YAML with each key's description as a comment above it. only: sections to write; None = all."""
    lines: list[str] = []
    for name in type(settings).model_fields:
        if only is None or name in only or name == "config_version":
            _write(lines, settings, name, 0)
    return "\n".join(lines) + "\n"


def _write(lines: list[str], section: Section, name: str, depth: int) -> None:
    indent, value = "  " * depth, getattr(section, name)
    description = type(section).model_fields[name].description or (type(value).__doc__ or "").strip().splitlines()[:1]
    comment = description if isinstance(description, str) else "".join(description)
    if depth == 0 and lines:
        lines.append("")
    if comment and not (isinstance(value, Section) and comment == Section.__doc__):
        lines.append(f"{indent}# {comment}")
    if isinstance(value, Section) and type(value).model_fields:
        lines.append(f"{indent}{name}:")
        for inner in type(value).model_fields:
            _write(lines, value, inner, depth + 1)
        return
    plain = _short(value)
    dumped = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True).strip()
    lines.append(f"{indent}{name}: {dumped.removesuffix('...').strip()}")


def _short(value: Any) -> Any:
    if isinstance(value, FieldSpec) and value == FieldSpec(role=value.role):
        return value.role
    if isinstance(value, Section):
        return {name: _short(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value
