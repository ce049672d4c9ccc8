"""YAML text to plain values and back: ``1e-3`` is a number, and no key may occur twice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from dtme_search.errors import ConfigError

_EXPONENT_FLOAT = re.compile(r"^[-+]?\d[\d_]*(?:\.\d*)?[eE][-+]?\d+$")
"""YAML 1.1 reads ``1e-3`` as text because it lacks a dot and ``1.0e5`` because it lacks a sign."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # PyYAML keeps the last of two equal keys; the first would be lost silently.
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' appears twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Knows the same numbers, so that the text ``1e5`` is quoted when written."""


# YAML 1.1 reads no, yes, on and off as truth values, so that a class or a task could not have such a name. As
# in YAML 1.2, only true and false are; where a field is true or false, pydantic accepts the other words too.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT_FLOAT, list("-+0123456789"))


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file that must contain a mapping.

    Raises:
        ConfigError: If it is not YAML (with line and column) or not a mapping.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {error.problem}.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict):
        found = "an empty file" if values is None else f"only {values!r:.60}"
        raise ConfigError(f"{path}: must hold a mapping of keys to values, got {found}.")
    return values


def parse_yaml(text: str) -> Any:
    """Parse YAML text.

    Raises:
        yaml.YAMLError: If it is not YAML.

    Example:
        >>> parse_yaml("1e-3"), parse_yaml("[none, both]"), parse_yaml("null")
        (0.001, ['none', 'both'], None)
    """
    return yaml.load(text, _Loader)


def dump_yaml(config: BaseModel | Mapping[str, Any], header: str = "") -> str:
    """Write a config, or plain values, as YAML below ``header`` as a comment; reads back the same."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    values = config.model_dump() if isinstance(config, BaseModel) else config
    body = yaml.dump(_plain(values), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100)
    return comment + body


def _plain(value: Any) -> Any:
    """Tuples as lists; unlike pydantic's JSON form it leaves whole numbers as keys."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
