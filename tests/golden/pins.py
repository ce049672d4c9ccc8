"""Numbers and names that users' databases and checkpoints rely on, computed from the code as it is.

``PYTHONPATH=.:tests python tests/golden/pins.py`` prints what differs from ``pins.json``; with ``--write`` it
renews the file, but only where the version that belongs to the change is above the released one.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from nyud_folder import write_nyud
from own_folder import write_own
from tiny import TINY, with_paths

from dtme_search.config import RunConfig, fingerprint, load_run_config, run_fingerprint
from dtme_search.config.identity import NUMERICS_VERSION
from dtme_search.data import Purpose, TaskData, build_data, build_dataset, make_generator
from dtme_search.data.derive import DERIVE_VERSION, Camera, edges_from_labels, normals_from_depth
from dtme_search.data.scenes import ScenesDataset
from dtme_search.data.scenes.dataset import RENDERER_VERSION
from dtme_search.token_space import ExpansionPlan
from dtme_search.training import Trainer
from dtme_search.training import identity as training_identity

FILE = Path(__file__).with_name("pins.json")
ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

VERSION_OF = {
    "fingerprints": "NUMERICS_VERSION",
    "numerics": "NUMERICS_VERSION",
    "randomness": "NUMERICS_VERSION",
    "renderer": "RENDERER_VERSION",
    "derived labels": "DERIVE_VERSION",
}
"""Section -> the version to raise when its values change on purpose."""
VERSIONS = {
    "NUMERICS_VERSION": (NUMERICS_VERSION, "dtme_search/config/identity.py"),
    "RENDERER_VERSION": (RENDERER_VERSION, "dtme_search/data/scenes/dataset.py"),
    "DERIVE_VERSION": (DERIVE_VERSION, "dtme_search/data/derive.py"),
}


def tiny(**fields: object) -> RunConfig:
    """The tiny run with dotted paths set (written with ``__``)."""
    return RunConfig.model_validate(with_paths(TINY, fields))


def fingerprints() -> dict[str, str]:
    """Names of runs, trunks, resolved work, baselines, conflict settings and data."""
    names = {
        f"config {path.stem}": run_fingerprint(load_run_config(str(path))) for path in sorted(_shipped())
    }
    names["canonical form"] = fingerprint({"b": [1, 2.5, None], "a": "text"})
    grown = tiny(expansion__policy="conflict", expansion__start=0.5)
    first, *others = grown.tasks
    plan = ExpansionPlan(
        tuple(grown.tasks), 3, {"modulate": {1: ((first,), tuple(others))}, "expand": {2: ((first,),)}}
    )
    context = training_identity.RunContext("cpu", "float32", "2.0", "1.0")
    with mock.patch.object(training_identity, "code_fingerprint", lambda: "code"):
        names["trunk"] = training_identity.trunk_fingerprint(grown, 5, "data", context)
        names["trunk of a switch to come"] = training_identity.trunk_fingerprint(
            tiny(tasks={"semseg": {}, "depth": {"role": "auxiliary"}}, schedule__kind="switch"),
            2,
            "data",
            context,
        )
    names["work"] = training_identity.work_fingerprint(grown, plan, "data", context)
    names["unexpanded work"] = training_identity.work_fingerprint(
        tiny(), ExpansionPlan(tuple(grown.tasks), 3), "data", context
    )
    names["checkpoint"] = training_identity.checkpoint_fingerprint(grown, "data")
    names["conflict settings"] = training_identity.analysis_fingerprint(grown, ("semseg", "depth"))
    single = tiny().for_single_task("depth")
    names["baseline of depth"] = training_identity.result_fingerprint(single, "data", context)
    return names | _data_fingerprints()


def numerics() -> dict[str, Any]:
    """Losses, metrics and conflicts of a tiny run that grows at half time."""
    config = tiny(expansion__policy="conflict", expansion__start=0.5)
    data = build_data(config.data, tuple(config.tasks), CPU)
    trainer = Trainer.of_config(config, data)
    result = trainer.run()
    assert result.report is not None
    return {
        "losses": {f"step {row.step}": dict(row.losses) for row in result.evaluations},
        "metrics": {f"step {row.step}": dict(row.metrics) for row in result.evaluations},
        "range rates": result.report.range_rates.mean(dim=(1, 2)).tolist(),
        "null rates": result.report.null_rates.mean(dim=(1, 2)).tolist(),
        "plan": " ".join(result.plan.operations()),
    }


def randomness() -> dict[str, Any]:
    """The purposes, and the first draw of each."""
    return {
        purpose.name: [int(purpose), torch.rand(2, generator=make_generator("cpu", 3, purpose, 7)).tolist()]
        for purpose in Purpose
    }


def renderer() -> dict[str, Any]:
    """What two built-in scenes look like, in means: colours, depth, normals, classes, edges."""
    config = tiny().data
    with tempfile.TemporaryDirectory() as cache:
        source = ScenesDataset(config.scenes, (32, 48), Path(cache))
        samples = {name: source.read(name, tuple(source.tasks)) for name in ("train-00000", "test-00001")}
    return {name: _summary({"image": it.image, **it.labels}) for name, it in samples.items()}


def derived_labels() -> dict[str, Any]:
    """Normals of a tilted plane beside a step, and edges of three regions."""
    rows, columns = np.indices((24, 32))
    depth = 2.0 + 0.02 * columns + 0.01 * rows + np.where(columns > 20, 1.0, 0.0)
    valid = rows > 0
    normals, known = normals_from_depth(depth, valid, Camera(26.0, 26.0, 16.0, 12.0), 0.016)
    regions = np.where(columns < 10, 0, np.where(rows < 12, 1, 2))
    edges, counts = edges_from_labels(regions, 1)
    return _summary({"normals": normals, "known": known, "edges": edges, "edges count": counts})


def computed() -> dict[str, Any]:
    """All sections, as plain values."""
    sections = {
        "fingerprints": fingerprints(),
        "numerics": numerics(),
        "randomness": randomness(),
        "renderer": renderer(),
        "derived labels": derived_labels(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(sections))
    return plain


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Where two plain values differ; floats may differ by what another processor rounds otherwise."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, two) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, two, f"{path}/{index}")
    elif isinstance(old, float) and isinstance(new, int | float):
        if not math.isclose(old, new, rel_tol=1e-4, abs_tol=1e-6):
            yield f"{path} was {old}, is {new}"
    elif old != new:
        yield f"{path} was {old}, is {new}"


def what_to_do(section: str) -> str:
    """What somebody should do who has changed a section."""
    name = VERSION_OF[section]
    version, file = VERSIONS[name]
    return (
        f"{section}: pinned values changed. By mistake: take the change back, for users' baselines, trunks "
        f"and checkpoints rely on them. On purpose: raise {name} in {file} above the released one (it is "
        f"{version}), say why in CHANGELOG.md, and run PYTHONPATH=.:tests python tests/golden/pins.py "
        "--write."
    )


def _shipped() -> Iterable[Path]:
    return (ROOT / "configs").glob("*.yaml")


def _data_fingerprints() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scenes: TaskData = build_data(tiny().data, ("depth",), CPU)
        nyud = tiny(data={"name": "nyud", "root": str(write_nyud(root / "nyud")), "image_size": [24, 32]})
        own = tiny(
            data={
                "name": "folder",
                "image_size": [32, 48],
                "folder": {"description": str(write_own(root))},
            },
            tasks={"plants": {}, "distance": {}},
        )
        return {
            "data scenes": scenes.fingerprint,
            "data nyud": build_dataset(nyud.data).fingerprint,
            "data folder": build_dataset(own.data).fingerprint,
        }


def _summary(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    return {
        name: [
            list(array.shape),
            float(np.mean(array, dtype=np.float64)),
            float(np.std(array, dtype=np.float64)),
        ]
        for name, array in arrays.items()
    }


def main() -> int:
    pinned, now = json.loads(FILE.read_text(encoding="utf-8")), computed()
    refused = False
    for section, name in VERSION_OF.items():
        changed = list(differences(pinned["values"].get(section, {}), now[section], section))
        print(*changed, sep="\n", end="\n" if changed else "")
        # What is new was pinned by nobody.
        lost = [each for each in changed if " was None, is " not in each]
        if lost and VERSIONS[name][0] <= pinned["released"][name]:
            print(what_to_do(section))
            refused = True
    if refused:
        return 1
    if "--write" in sys.argv:
        text = json.dumps({"released": pinned["released"], "values": now}, indent=1, sort_keys=True)
        FILE.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
