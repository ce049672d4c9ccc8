"""Files by name or path: finding, reading and checking configs and studies, overrides by dotted path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from dtme_search.config.dotted import set_path, value_at
from dtme_search.config.messages import validate
from dtme_search.config.parts import check_choice, check_names, check_sampler_name
from dtme_search.config.paths import check_path, check_value, is_whole_number
from dtme_search.config.run import RunConfig
from dtme_search.config.study import StudyConfig
from dtme_search.config.yaml_text import parse_yaml, read_yaml
from dtme_search.errors import ConfigError
from dtme_search.paths import expanded

_PATHS = ("data.root", "data.folder.description", "model.checkpoint")
"""Fields that name a file or folder, relative to the file that contains them."""

Kind = Literal["studies", "configs"]
StudySource = str | Path | StudyConfig
"""A study: its name, its YAML, or built in Python."""
_MEASURED = re.compile(
    r"data\.(name|root|folder|options|holdout_fraction|holdout_seed|limit_train|scenes|nyud|taskonomy)\b"
    r"|plugins\b|tasks\..+\.metric(_options)?\b"
)
"""Fields that determine on which images and classes a trial is judged."""
_ROLE = re.compile(r"tasks\.(?P<task>.+)\.role$")
_SINGULAR = {"studies": "study", "configs": "config"}


def find_file(name_or_path: str | Path, kind: Kind) -> Path:
    """Find a YAML by path, or by name in ``./studies`` (``./configs``) and then among the shipped ones.

    Raises:
        ConfigError: If there is none; lists the known ones, the nearest first.
    """
    path, name_or_path = Path(name_or_path), str(name_or_path)
    known = shipped(kind)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        hint = f" The {_SINGULAR[kind]} named '{path.stem}' needs no ending." if path.stem in known else ""
        raise ConfigError(f"{path}: no such file.{hint}")
    if name_or_path in known:
        return known[name_or_path]
    by_likeness = sorted(known, key=lambda name: -SequenceMatcher(None, name, name_or_path).ratio())
    raise ConfigError(
        f"No {_SINGULAR[kind]} is named '{name_or_path}'. "
        f"Known, nearest first: {', '.join(by_likeness) or 'none'}. A path ending in .yaml works too."
    )


def shipped(kind: Kind, *, here: bool = True) -> dict[str, Path]:
    """YAML files by name: those of ``./studies`` (``./configs``), if ``here``, before the shipped ones."""
    package = Path(str(resources.files("dtme_search")))
    # A wheel holds shipped/; a checkout (pip install -e) has the folders beside the package.
    installed = package / "shipped"
    found: dict[str, Path] = {}
    for folder in (
        *([Path(kind)] if here else []),
        (installed if installed.is_dir() else package.parent) / kind,
    ):
        if folder.is_dir():
            for path in sorted(folder.glob("*.yaml")):
                found.setdefault(path.stem, path)
    return found


def load_run_config(name_or_path: str, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a ``configs/*.yaml`` (or an export) and apply ``path=value`` overrides.

    Raises:
        ConfigError: With file, dotted path, rule, value and the nearest known name.
    """
    config = _read_run_config(find_file(name_or_path, "configs"), overrides)
    check_names(config, name_or_path)
    return config


def load_study_config(source: StudySource) -> StudyConfig:
    """Read and check a study; its base config and its paths are checked as well.

    Paths in a study built in Python are relative to the current folder; in the returned study they work from
    anywhere.

    Raises:
        ConfigError: With file, dotted path, rule, value and the nearest known name.
    """
    if isinstance(source, StudyConfig):
        study, folder, where = _placed_here(source), None, f"study {source.name}"
    else:
        path = find_file(source, "studies")
        folder, where = path.parent, str(path)
        study = validate(StudyConfig, _with_plugins_at(read_yaml(path), folder), where)
    base = base_config(study, folder)
    check_names(base, f"{where}: config")
    check_sampler_name(study, where)
    _check_search(study, base, where)
    return study


def base_config(study: StudyConfig, folder: Path | None = None, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The ``RunConfig`` that a study starts from; ``folder`` contains the study file."""
    found = _config_of(study, folder, overrides)
    others = [file for file in study.plugins if file not in found.plugins]
    return found.model_copy(update={"plugins": (*others, *found.plugins)}) if others else found


def _read_run_config(path: Path, overrides: tuple[str, ...]) -> RunConfig:
    values = read_yaml(path)
    if "search" in values:
        raise ConfigError(f"{path}: is a study, not a config. Use it with `optimize --study`.")
    return _overridden(validate(RunConfig, _anchored(values, path.parent), str(path)), overrides)


def _config_of(study: StudyConfig, folder: Path | None, overrides: tuple[str, ...]) -> RunConfig:
    where = f"study {study.name}: config"
    if isinstance(study.config, dict):
        values = study.config if folder is None else _anchored(study.config, folder)
        return _overridden(validate(RunConfig, values, where), overrides)
    name = study.config
    if folder is not None and name.endswith((".yaml", ".yml")):
        name = str(folder / name)
    try:
        path = find_file(name, "configs")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return _read_run_config(path, overrides)


def apply_overrides(
    values: Mapping[str, Any], overrides: tuple[str, ...], base: RunConfig | None = None
) -> dict[str, Any]:
    """Apply ``path=value`` strings (values as YAML) to a plain mapping; returns a new one.

    Args:
        values: Plain form of a config.
        overrides: The values of ``--set``.
        base: If given, task names must be those of this config.

    Raises:
        ConfigError: If one has another form, an unknown path or a value that is not YAML.

    Example:
        >>> apply_overrides({"train": {"lr": 0.1}}, ("train.lr=2e-1",))
        {'train': {'lr': 0.2}}
    """
    result = dict(values)
    for override in overrides:
        dotted, separator, text = (part.strip() for part in override.partition("="))
        where = f"--set {override}"
        if not separator or not dotted:
            raise ConfigError(f"--set must look like path=value, got '{override}'.")
        if "*" in dotted:
            raise ConfigError(f"{where}: the path must not contain *; only a search space may.")
        check_path(dotted, where, base)
        try:
            result = set_path(result, dotted, parse_yaml(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"{where}: '{text}' is not a YAML value.") from error
        except IndexError as error:
            raise ConfigError(f"{where}: the list is shorter than that. Set it as a whole.") from error
    return result


def _overridden(config: RunConfig, overrides: tuple[str, ...]) -> RunConfig:
    if not overrides:
        return config
    # The full form, so that items of lists that the file leaves at their default can be set.
    full = config.model_dump(mode="json")
    is_set = any(override.startswith("data.image_size") for override in overrides)
    if "image_size" not in config.data.model_fields_set and not is_set:
        del full["data"]["image_size"]  # left open still, to suit the images
    values = _anchored(apply_overrides(full, overrides, config), Path())
    return validate(RunConfig, values, f"--set {' '.join(overrides)}")


def _anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Plain values of a config with absolute paths: relative ones start at ``folder``.

    So a study, an export or a checkpoint finds its files wherever a command is run.
    """
    result = dict(values)
    for dotted in _PATHS:
        value = value_at(result, dotted)
        if isinstance(value, str):
            result = set_path(result, dotted, _place(value, folder))
    return _with_plugins_at(result, folder)


def _with_plugins_at(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    files = values.get("plugins")
    if not isinstance(files, (list, tuple)):
        return dict(values)  # validation will report what is wrong
    return {**values, "plugins": [_place(file, folder) if isinstance(file, str) else file for file in files]}


def _place(value: str, folder: Path) -> str:
    return os.path.normpath((folder / expanded(value)).absolute())


def _placed_here(study: StudyConfig) -> StudyConfig:
    """A study that finds its files from anywhere."""
    base = study.config
    if isinstance(base, dict):
        base = _anchored(base, Path())
    elif base.endswith((".yaml", ".yml")):
        base = str(Path(base).absolute())
    files = tuple(_place(file, Path()) for file in study.plugins)
    return study.model_copy(update={"config": base, "plugins": files})


def _check_search(study: StudyConfig, base: RunConfig, where: str) -> None:
    for dotted, searched in study.search.items():
        place = f"{where}: search.{dotted}"
        check_path(dotted, place, base)
        if _MEASURED.match(dotted):
            raise ConfigError(
                f"{place}: cannot be searched, because it changes what is measured: values of two trials "
                "would not be comparable. Make a study for each value."
            )
        role = _ROLE.match(dotted)
        if role and "primary" in (base.tasks[role["task"]].role, *(searched.choices or ())):
            raise ConfigError(
                f"{place}: primary cannot be searched, because delta_m is the mean over the primary tasks: "
                "values of two trials would not be comparable. Make the task auxiliary in the base config "
                "and search choices: [auxiliary, absent]."
            )
        for choice in searched.choices or ():
            check_value(choice, dotted, f"{place}.choices", base)
            check_choice(choice, dotted, f"{place}.choices", base.plugins)
        for name in ("low", "high"):
            if getattr(searched, name) is not None:
                check_value(getattr(searched, name), dotted, f"{place}.{name}", base)
        if searched.step is not None and is_whole_number(dotted) and not isinstance(searched.step, int):
            raise ConfigError(f"{place}.step must be a whole number, got {searched.step}.")
