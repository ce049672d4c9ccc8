"""Labels of PASCAL-Context from the MATLAB files of its release: regions, edges, human parts.

Shapes: H height, W width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dtme_search.data.reading.matlab import read_matlab
from dtme_search.errors import DataError
from dtme_search.thinning import thin

PART_NAMES = ("background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg")
"""The seven classes of the multi-task literature (ASTMT, InvPT)."""
NUM_REGION_CLASSES = 459
"""Classes of the region maps (Mottaghi et al., CVPR 2014); 0 is unlabelled."""

_PERSON = 15
_PART_MEMBERS = (
    ("head", "hair", "leye", "reye", "lear", "rear", "lebrow", "rebrow", "nose", "mouth"),
    ("torso", "neck"),
    ("luarm", "ruarm"),
    ("llarm", "rlarm", "lhand", "rhand"),
    ("luleg", "ruleg"),
    ("llleg", "rlleg", "lfoot", "rfoot"),
)
"""Names of PASCAL-Part (Chen et al., CVPR 2014) that make up parts 1 to 6; l and r are the person's sides."""
_PART_IDS = {name: part for part, names in enumerate(_PART_MEMBERS, start=1) for name in names}


def read_label_map(path: Path) -> npt.NDArray[np.uint16]:
    """Region classes 0..459, shape (H, W), from ``LabelMap``.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    labels = _load(path, "LabelMap")
    if labels.ndim != 2 or labels.dtype.kind not in "biuf" or labels.size == 0:
        raise DataError(
            f"{path}: LabelMap must be class ids of shape (H, W), got {labels.dtype} {labels.shape}. "
            "Replace the file."
        )
    if not 0 <= labels.min() <= labels.max() <= NUM_REGION_CLASSES:
        raise DataError(
            f"{path}: LabelMap must hold ids 0 to {NUM_REGION_CLASSES}, got {labels.min()} to "
            f"{labels.max()}. Replace the file."
        )
    return labels.astype(np.uint16)


def edges_of(label_map: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Boundaries between regions, one pixel wide, shape (H, W).

    As in InvPT and ATRC: where the 4-neighbour Laplacian of the ids, mirrored at the frame without repeating
    its pixels, is not zero; then thinned until nothing changes.

    Example:
        >>> regions = np.repeat([[1, 1, 1, 7, 7, 7]], 6, axis=0).astype(np.uint16)
        >>> edges_of(regions)[2].astype(int).tolist() in ([0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0])
        True
    """
    # Integers in float64, so that a Laplacian that vanishes is exactly 0.
    return thin(ndimage.laplace(label_map.astype(np.float64), mode="mirror") != 0)


def read_parts(path: Path) -> npt.NDArray[np.uint8] | None:
    """Human parts 0..6, shape (H, W), from the struct ``anno`` of PASCAL-Part.

    Persons without part masks stay background, and later persons cover earlier ones.

    Returns:
        ``None`` if no person has parts: such an image says nothing about them.

    Raises:
        DataError: If the file is missing, damaged or holds something else.
    """
    anno = _load(path, "anno")
    parts: npt.NDArray[np.uint8] | None = None
    try:
        for person in _structs(anno[0, 0]["objects"]):
            if int(person["class_ind"].item()) != _PERSON:
                continue
            for part in _structs(person["parts"]):
                name, mask = str(part["part_name"].item()), part["mask"]
                if name not in _PART_IDS:
                    raise DataError(
                        f"{path}: part names of persons must be those of PASCAL-Part, got '{name}'. "
                        "Replace the file."
                    )
                parts = np.zeros(mask.shape, dtype=np.uint8) if parts is None else parts
                parts[mask > 0] = _PART_IDS[name]
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: anno must be a struct of objects (class_ind, parts) and parts (part_name, mask of the "
            f"image's size), got another form ({_first_line(error)}). Replace the file."
        ) from error
    return parts


def _structs(field: npt.NDArray[Any]) -> list[Any]:
    """Elements of a struct array; MATLAB writes an empty one as an empty array of numbers."""
    return list(field.ravel()) if field.size else []


def _load(path: Path, variable: str) -> npt.NDArray[Any]:
    try:
        content = read_matlab(path, [variable])
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file is missing. Complete the data set.") from error
    except Exception as error:  # scipy passes on whatever error a damaged file causes in its parser
        raise DataError(
            f"{path}: the file cannot be read as MATLAB version 5 ({_first_line(error)}). Replace it."
        ) from error
    if not isinstance(content.get(variable), np.ndarray):
        raise DataError(f"{path}: must hold the variable {variable}, got none. Replace the file.")
    value: npt.NDArray[Any] = content[variable]
    return value


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
