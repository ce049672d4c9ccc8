"""Weight files: read without running code from them, and loaded only where every key fits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dtme_search.errors import ConfigError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def read_weights(path: Path, place: str) -> dict[str, Tensor]:
    """Read a state dict; ``model`` and ``state_dict`` around it and wrapper prefixes are taken off.

    Args:
        path: A ``.safetensors`` file, or one that ``torch.load(weights_only=True)`` reads.
        place: Config path for error messages.

    Raises:
        ConfigError: If there is no such file, or it holds no state dict.
    """
    if not path.is_file():
        raise ConfigError(f"{place}: no such file: {path}.")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{place} must end in {', '.join(SUFFIXES)}, got {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            values: object = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises whatever its reader happens to meet first
        raise ConfigError(
            f"{place}: {path} cannot be read as weights ({type(error).__name__}). It must be a safetensors "
            "file or a state dict saved by torch.save, without other objects."
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(values, dict) and isinstance(values.get(wrapper), dict):
            values = values[wrapper]
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ConfigError(f"{place}: {path} must hold a state dict: names and tensors, nothing else.")
    return {_without_wrappers(name): tensor for name, tensor in values.items()}


def digest_of_weights(path: Path) -> str:
    """SHA-256 of the content of a weight file; read once, unless the file changes.

    Raises:
        ConfigError: If there is no such file.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise ConfigError(f"model.checkpoint: {path} cannot be read ({error.strerror}).") from error
    return _digest(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, inode: int, size: int, changed: int) -> str:  # noqa: ARG001  (keys of the cache)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], place: str) -> None:
    """Load weights that must match the module in every name and shape.

    Raises:
        ConfigError: Names the first missing, unexpected and misshapen keys.
    """
    expected = module.state_dict()
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
    }
    found = [f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names]
    if found:
        raise ConfigError(
            f"{place}: the weights do not fit the backbone: {'; '.join(found)}. "
            "Set model.backbone and model.backbone_options to the model they were trained with."
        )
    module.load_state_dict(weights)


def _without_wrappers(name: str) -> str:
    # torch.compile and DistributedDataParallel save their module under these names, in either order.
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
