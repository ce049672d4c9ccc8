"""YAML in and out: finding files by name, overrides by dotted path, errors with file and place."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dtme_search.config.run import RunConfig
from dtme_search.config.study import KNOWN_POINTS, OBJECTIVES, StudyConfig
from dtme_search.errors import ConfigError, nearest

Kind = Literal["studies", "configs"]
SectionT = TypeVar("SectionT", bound=BaseModel)


def find_file(name_or_path: str, kind: Kind) -> Path:
    """Find a YAML by path, or by name in ``./studies`` (``./configs``) and then among the shipped ones.

    Raises:
        ConfigError: If there is none; names the nearest known one.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise ConfigError(f"{path}: no such file.")
    known = shipped(kind)
    if name_or_path in known:
        return known[name_or_path]
    singular = "study" if kind == "studies" else "config"
    hint = nearest(name_or_path, known)
    raise ConfigError(
        f"No {singular} is named '{name_or_path}'.{hint} `dtme-search studies` lists them; "
        "a path ending in .yaml works too."
    )


def shipped(kind: Kind) -> dict[str, Path]:
    """YAML files by name: those of the current folder's ``studies/`` (``configs/``) before the shipped ones."""
    package = Path(str(resources.files("dtme_search")))
    # An installed wheel holds shipped/; a checkout (pip install -e) has the folders beside the package.
    folders = [Path(kind), package / "shipped" / kind, package.parent / kind]
    found: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for path in sorted(folder.glob("*.yaml")):
                found.setdefault(path.stem, path)
    return found


def load_run_config(name_or_path: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a ``configs/*.yaml`` (or an export) and apply ``path=value`` overrides.

    Raises:
        ConfigError: With file, dotted path, rule, value and the nearest known name.
    """
    path = find_file(name_or_path, "configs")
    values = apply_overrides(read_yaml(path), overrides)
    return validate(RunConfig, values, str(path))


def load_study_config(name_or_path: str) -> StudyConfig:
    """Read and check a ``studies/*.yaml``; its base config and its paths are checked as well.

    Raises:
        ConfigError: With file, dotted path, rule, value and the nearest known name.
    """
    path = find_file(name_or_path, "studies")
    study = validate(StudyConfig, read_yaml(path), str(path))
    for place in ("objectives", "limits"):
        for name in getattr(study, place):
            if name not in OBJECTIVES:
                raise ConfigError(f"{path}: {place}: '{name}' is not measured.{nearest(name, OBJECTIVES)}")
    for point in study.enqueue:
        if isinstance(point, str) and point not in KNOWN_POINTS:
            raise ConfigError(f"{path}: enqueue: no point is named '{point}'.{nearest(point, KNOWN_POINTS)}")
    base = base_config(study, path.parent)
    for dotted, distribution in study.search.items():
        place = f"{path}: search.{dotted}"
        check_path(dotted, place, base)
        if distribution.choices is not None and "*" not in dotted:
            for choice in distribution.choices:
                _check_value(base, dotted, choice, place)
        for bound in (distribution.low, distribution.high):
            if bound is not None:
                _check_value(base, dotted, bound, place)
    return study


def base_config(study: StudyConfig, folder: Path | None = None, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The ``RunConfig`` a study starts from; ``folder`` is where the study file lies."""
    if isinstance(study.config, dict):
        return validate(RunConfig, apply_overrides(study.config, overrides), f"study {study.name}: config")
    if folder is not None and study.config.endswith((".yaml", ".yml")):
        return load_run_config(str(folder / study.config), overrides)
    return load_run_config(study.config, overrides)


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file that must hold a mapping.

    Raises:
        ConfigError: If it is no YAML (with line and column) or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys to values, got {type(values).__name__}.")
    return values


def dump_yaml(config: BaseModel, header: str = "") -> str:
    """Write a config as YAML, ``header`` as comment lines above it; reading it gives an equal config."""
    comment = "".join(f"# {line}\n".replace("# \n", "#\n") for line in header.splitlines())
    body = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=100)
    return comment + body


def validate(section: type[SectionT], values: Any, where: str) -> SectionT:
    """Build a frozen config section, turning pydantic's report into one line.

    Raises:
        ConfigError: ``<where>: <dotted path> must ..., got ....``
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        messages = [_describe(detail, section) for detail in error.errors(include_url=False)]
        more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
        raise ConfigError(f"{where}: {messages[0]}{more}") from error


def apply_overrides(values: Mapping[str, Any], overrides: tuple[str, ...]) -> dict[str, Any]:
    """Apply ``path=value`` strings (values as YAML) to a plain mapping; returns a new one.

    Example:
        >>> apply_overrides({"train": {"lr": 0.1}}, ("train.lr=0.2",))
        {'train': {'lr': 0.2}}
    """
    result = dict(values)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted.strip():
            raise ConfigError(f"--set must look like path=value, got '{override}'.")
        check_path(dotted.strip(), f"--set {override}", None)
        result = set_path(result, dotted.strip(), _read_scalar(text))
    return result


def set_path(values: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """Copy of a nested mapping with one dotted path set; numbers index into lists."""

    def put(node: Any, parts: list[str]) -> Any:
        if not parts:
            return value
        if isinstance(node, (list, tuple)):
            items = list(node)
            items[int(parts[0])] = put(items[int(parts[0])], parts[1:])
            return items
        copy = dict(node or {})
        copy[parts[0]] = put(copy.get(parts[0]), parts[1:])
        return copy

    result: dict[str, Any] = put(values, dotted.split("."))
    return result


def check_path(dotted: str, where: str, base: RunConfig | None) -> None:
    """Check that a dotted path (``*`` allowed for a list index) names a field of ``RunConfig``.

    Raises:
        ConfigError: Names the unknown part and its nearest known neighbour.
    """
    node: Any = RunConfig
    for part in dotted.split("."):
        node = _unwrap(node)
        if isinstance(node, type) and issubclass(node, BaseModel):
            if part not in node.model_fields:
                raise ConfigError(f"{where}: '{part}' is unknown.{nearest(part, node.model_fields)}")
            node = node.model_fields[part].annotation
        elif typing.get_origin(node) is dict:
            if base is not None and node == dict[str, _task_config()] and part not in base.tasks:
                raise ConfigError(f"{where}: '{part}' is no task of the config.{nearest(part, base.tasks)}")
            node = typing.get_args(node)[1]
        elif typing.get_origin(node) is tuple:
            if part != "*" and not part.isdigit():
                raise ConfigError(f"{where}: '{part}' must be a number or * here.")
            node = typing.get_args(node)[0]
        else:
            raise ConfigError(f"{where}: '{part}' lies below a plain value.")


def _task_config() -> Any:
    return typing.get_args(RunConfig.model_fields["tasks"].annotation)[1]


def _unwrap(annotation: Any) -> Any:
    """Drop Annotated and the None of an optional."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
            parts = [part for part in typing.get_args(annotation) if part is not type(None)]
            if len(parts) != 1:
                return annotation
            annotation = parts[0]
        else:
            return annotation


def _check_value(base: RunConfig, dotted: str, value: Any, where: str) -> None:
    values = base.model_dump(mode="json")
    if "*" in dotted or any(part.isdigit() for part in dotted.split(".")):
        return
    try:
        RunConfig.model_validate(set_path(values, dotted, value))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            # Rules across fields (policy fixed needs a plan) may hold once other paths are set as well.
            if detail["loc"] and ".".join(map(str, detail["loc"])).startswith(dotted):
                raise ConfigError(f"{where}: {_describe(detail, RunConfig)}") from error


def _read_scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: '{text}' is not a YAML value.") from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-3 as text; a person typing it means the number.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _describe(detail: ErrorDetails, section: type[BaseModel]) -> str:
    """One pydantic error as ``path must rule, got value.``"""
    place = ".".join(str(part) for part in detail["loc"])
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        parent: Any = section
        for part in detail["loc"][:-1]:
            parent = _unwrap(parent)
            if isinstance(parent, type) and issubclass(parent, BaseModel):
                parent = parent.model_fields[str(part)].annotation
            elif typing.get_args(parent):
                parent = typing.get_args(parent)[-1]
        parent = _unwrap(parent)
        known = parent.model_fields if isinstance(parent, type) and issubclass(parent, BaseModel) else ()
        return f"{place} is unknown.{nearest(str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{place} is missing."
    if detail["type"] == "value_error":
        rule = str(detail["ctx"]["error"]) if "ctx" in detail else detail["msg"]
        return f"{place}: {rule}." if place else f"{rule}."
    rule = detail["msg"][0].lower() + detail["msg"][1:]
    rule = rule.removeprefix("input should be ").removeprefix("input should ")
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"{place} must be {rule}, got {shown}."
