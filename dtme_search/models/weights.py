"""Weight files: read without running code from them, and loaded only if every key fits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dtme_search.errors import ConfigError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
WRAPPERS = ("teacher", "model_ema", "state_dict", "model_state_dict", "model", "module")
"""Keys under which a file keeps its state dict, beside steps and optimisers; the first match counts."""

_FIRST_BLOCK = re.compile(r"^(.*?)(?:blocks\.0\.|(?:encoder\.|model\.)?layer\.0\.)")
"""Prefixes before the names of the first block in timm or transformers."""


def read_weights(path: Path, place: str) -> dict[str, Tensor]:
    """Read the state dict of a backbone, without its wrapping and without prefixes of its names.

    Files of training loops keep it under ``model``, ``state_dict``, ``teacher`` and the like, and its names
    begin with ``module.``, ``backbone.`` or, in a checkpoint of this program, ``backbone.vit.``.

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
    while isinstance(values, dict):
        inner = [values[wrapper] for wrapper in WRAPPERS if isinstance(values.get(wrapper), dict)]
        if not inner:
            break
        values = inner[0]
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ConfigError(f"{place}: {path} must hold a state dict: names and tensors, nothing else.")
    return _backbone_of(values, f"{place}: {path}")


def _backbone_of(values: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """The weights of the one network with blocks in a row, without the prefix of its names."""
    prefixes = Counter(found[1] for name in values if (found := _FIRST_BLOCK.match(name)))
    if not prefixes:
        return dict(values)
    (prefix, most), *others = prefixes.most_common()
    alike = sorted([prefix, *(other for other, count in others if count == most)])
    if len(alike) > 1:
        raise ConfigError(
            f"{place} must hold one backbone, got names that begin with "
            f"{' and '.join(repr(one) for one in alike)}. Save one of them."
        )
    return {name.removeprefix(prefix): tensor for name, tensor in values.items() if name.startswith(prefix)}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write tensors and a few words about them as safetensors, a format that holds no code.

    Raises:
        OSError: If the file cannot be written.
    """
    from safetensors.torch import save

    # Tensors that share memory, or are a view of other memory, cannot be written.
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(own, metadata={"format": "pt", **notes}))


def read_tensors(path: Path, device: torch.device) -> dict[str, Tensor]:
    """Read the tensors that :func:`write_tensors` wrote.

    Raises:
        ValueError: If the file is damaged or no safetensors file.
    """
    from safetensors.torch import load_file

    with _damage_as_value_error():
        return load_file(path, device=str(device))


def read_notes(path: Path) -> dict[str, str]:
    """Read the words about the tensors, without the tensors.

    Raises:
        ValueError: If the file is damaged or no safetensors file.
    """
    from safetensors import safe_open

    with _damage_as_value_error(), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


@contextmanager
def _damage_as_value_error() -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error).splitlines()[0].rstrip(".")) from error


def digest_of_weights(path: Path) -> str:
    """SHA-256 of the content of a weight file; computed once, unless the file changes.

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


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
