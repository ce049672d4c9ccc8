"""Run a network that `dtme-search deploy` wrote, on a device without PyTorch and without dtme-search.

    pip install numpy pillow onnxruntime
    python onnx_without_torch.py net.onnx photo.jpg --out predictions

Writes one file for each task: classes as PNG, numbers and normals as .npy.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def main() -> None:
    """Predict one photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    given = parser.parse_args()

    session = onnxruntime.InferenceSession(str(given.network), providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map["dtme-search"])
    height, width = described["image_size"]
    with Image.open(given.photo) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # uint8 (1, 3, H, W); the file normalises

    given.out.mkdir(parents=True, exist_ok=True)
    names = [spec["name"] for spec in described["specs"]]
    for name, output in zip(names, session.run(None, {"images": batch}), strict=True):
        if output.dtype == np.int32:  # classes
            Image.fromarray(output[0].astype(np.uint8)).save(given.out / f"{name}.png")
        else:
            np.save(given.out / f"{name}.npy", output[0])
        print(f"{name}: {output[0].shape}, from {output.min():.3g} to {output.max():.3g}")


if __name__ == "__main__":
    main()
