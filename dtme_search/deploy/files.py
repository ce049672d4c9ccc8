"""Programs as files: ONNX for any runtime, or ``torch.export`` for PyTorch; each contains its description."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dtme_search.data import image_statistics
from dtme_search.deploy.program import Form, Program, as_raw
from dtme_search.errors import ConfigError
from dtme_search.tasks import TaskSpec, spec_from_plain
from dtme_search.version import __version__

FileKind = Literal["onnx", "torch"]
ENDINGS: Mapping[FileKind, str] = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 18
"""ONNX opset; torch's exporter writes it without conversion."""
IR_VERSION = 10
"""Version of ONNX's file format, which ONNX Runtime reads from 1.18 on."""
MARK = "dtme-search"
"""Key of the description in a file."""
LARGEST_BATCH = 1024
_LARGEST_FILE = 2 * 10**9
"""Size limit of one ONNX file in bytes; weights of larger networks go into a second file beside it."""


@dataclass(frozen=True)
class Description:
    """What a file contains; stored in it as JSON.

    Attributes:
        specs: Its tasks, in the order of the outputs.
        image_size: (H, W) of its images.
        normalize: How the program normalises its images, which are plain uint8 RGB.
        form: ``labels`` or ``raw``.
        layers: Operation of every layer.
        parameters: Parameters of the network.
        version: Of this program.
    """

    specs: tuple[TaskSpec, ...]
    image_size: tuple[int, int]
    normalize: str
    form: Form
    layers: str
    parameters: int
    version: str = __version__

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        specs = tuple(map(spec_from_plain, values["specs"]))
        return cls(**{**values, "specs": specs, "image_size": tuple(values["image_size"])})


def write_file(program: Program, description: Description, kind: FileKind, path: Path) -> None:
    """Export a program with a batch of any size and write it with its description.

    Raises:
        ConfigError: If the packages that write ONNX are not installed.
        ConfigError: If torch cannot export the network.
    """
    if kind == "onnx":
        _need("onnx", "onnxscript")
    # A batch of three, because export treats sizes 0 and 1 specially.
    example = torch.zeros(3, 3, *description.image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    try:
        with torch.no_grad():
            exported = torch.export.export(program, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # a plug-in's part may fail in any way
        raise ConfigError(f"torch.export cannot export this network: {str(error).splitlines()[0]}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "torch":
        torch.export.save(exported, path, extra_files={MARK: description.to_json()})
        return
    with torch.no_grad():
        onnx = torch.onnx.export(exported, (example,), dynamo=True, opset_version=OPSET, verbose=False)
    assert onnx is not None
    for value, spec in zip(onnx.model.graph.outputs, description.specs, strict=True):
        value.name = spec.name
    onnx.model.ir_version = IR_VERSION
    onnx.model.metadata_props[MARK] = description.to_json()
    onnx.save(str(path), external_data=4 * description.parameters > _LARGEST_FILE)


@dataclass(frozen=True)
class Opened:
    """An opened file; called with uint8 images (B, 3, H, W) it returns a tensor per task.

    Attributes:
        description: What the file holds.
        run: Images to outputs, in the order of the tasks.
    """

    description: Description
    run: Callable[[Tensor], Sequence[Tensor]]

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """Its tasks by name."""
        return {spec.name: spec for spec in self.description.specs}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.specs, self.run(images), strict=True))

    def raw(self, images: Tensor, inside: Tensor) -> dict[str, Tensor]:
        """Outputs as decoders return them, (B, C, H, W), whatever the form of the file.

        Args:
            images: uint8, shape (B, 3, H, W).
            inside: Where they show a picture, bool (B, 1, H, W); elsewhere the mean colour is used, as for
                padding in training.
        """
        mean, _ = image_statistics(self.description.normalize)
        found = self(torch.where(inside, images, mean.round().to(torch.uint8)))
        if self.description.form == "raw":
            return found
        return {task: as_raw(output, self.specs[task]) for task, output in found.items()}


def open_file(path: Path) -> Opened:
    """Open a file that :func:`write_file` wrote, on the CPU. Open only files that you trust.

    Raises:
        ConfigError: If ONNX Runtime is not installed.
        ConfigError: If it is not such a file.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. `dtme-search deploy` writes one.")
    return _open_onnx(path) if path.suffix == ENDINGS["onnx"] else _open_torch(path)


def _open_torch(path: Path) -> Opened:
    found = {MARK: ""}
    try:
        module = torch.export.load(path, extra_files=found).module()
    except Exception as error:  # a damaged archive fails in many ways
        raise _foreign(path) from error
    return Opened(_description(path, found[MARK]), lambda images: list(module(images)))


def _open_onnx(path: Path) -> Opened:
    runtime: Any = _need("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _foreign(path) from error
    described = session.get_modelmeta().custom_metadata_map.get(MARK, "")
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {name: images.cpu().numpy()})]

    return Opened(_description(path, described), run)


def _description(path: Path, text: str | bytes) -> Description:
    try:
        return Description.from_json(text if isinstance(text, str) else text.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(path) from error


def _foreign(path: Path) -> ConfigError:
    return ConfigError(f"{path}: must be a file that `dtme-search deploy` wrote, got something else.")


def _need(*modules: str) -> Any:
    from importlib import import_module

    try:
        return [import_module(name) for name in modules][-1]
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs the package {error.name}. Install it with: pip install 'dtme-search[onnx]'."
        ) from error
