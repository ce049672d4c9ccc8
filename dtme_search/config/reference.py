"""The reference of all YAML fields as Markdown, made from the models that check them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from dtme_search.config.run import RunConfig
from dtme_search.config.study import StudyConfig

_INTRODUCTION = """# Every field

Made by `dtme-search schema reference`; a test keeps it fresh. A config is one complete training run, a
study is a search around it. Any field of a config can be searched by its dotted path, or changed for one
run with `--set path=value`. `NAME` stands for a name of yours, such as that of a task."""

_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_KINDS = {
    "integer": "whole number",
    "string": "text",
    "boolean": "true or false",
    "null": "empty",
}


def reference() -> str:
    """The page ``docs/configuration.md``."""
    parts = [_INTRODUCTION]
    for title, model in (("A config", RunConfig), ("A study", StudyConfig)):
        parts += [f"## {title}", *_sections(model)]
    return "\n\n".join(parts) + "\n"


def _sections(model: type[BaseModel]) -> Iterator[str]:
    """One table for each level of the YAML."""
    schema = model.model_json_schema()
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", schema)]
    while waiting:
        place, section = waiting.pop(0)
        if place:
            said = section.get("description", "")
            yield f"### `{place}`" + (f"\n\n{_words(said)}" if said else "")
        rows = []
        for name, field in section["properties"].items():
            path = f"{place}.{name}" if place else name
            inner, step = _inner(field, schema)
            if inner is not None:
                waiting.append((path + step, inner))
            else:
                said = _words(field.get("description", ""))
                rows.append((f"`{path}`", _type(field), _default(name, field, section), said))
        if rows:
            lines = [("field", "value", "default", "what"), ("---",) * 4, *rows]
            yield "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _inner(field: Mapping[str, Any], schema: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """The section behind a field, and what its path takes on: ``.NAME`` for a mapping of sections."""
    entries = field.get("additionalProperties")
    holder, step = (entries, ".NAME") if isinstance(entries, Mapping) else (field, "")
    found = holder.get("$ref")
    return (schema["$defs"][found.rpartition("/")[2]], step) if found else (None, "")


def _type(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(option) for option in field["anyOf"]))
    kind = str(field.get("type", "anything"))
    if kind == "array":
        items = field.get("prefixItems") or [field.get("items", {})]
        many = "" if "prefixItems" in field else " ..."
        return f"[{', '.join(_type(item) for item in items)}{many}]"
    if kind == "object":
        entries = field.get("additionalProperties")
        return f"mapping to {_type(entries)}" if isinstance(entries, Mapping) and entries else "mapping"
    limits = [f"{text} {field[key]:g}" for key, text in _LIMITS.items() if key in field]
    return " ".join([_KINDS.get(kind, kind), ", ".join(limits)]).strip()


def _default(name: str, field: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    if name in section.get("required", ()):
        return "**needed**"
    value = field.get("default")
    return "empty" if value in (None, "", {}, []) else f"`{json.dumps(value).strip(chr(34))}`"


def _words(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())
