"""Files that a disk gives back otherwise than they were written: noticed, never read as right."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import pytest
import torch
from nyud_folder import TRAIN, write_nyud

from dtme_search.config import NyudConfig
from dtme_search.data.nyud.dataset import NyudDataset
from dtme_search.data.reading.cache import cached_files
from dtme_search.errors import TrainingError
from dtme_search.search.storage.rows import RunRow
from dtme_search.search.trial.result import Result
from dtme_search.training import load_checkpoint, save_checkpoint
from dtme_search.training.checkpoint import load_snapshot, save_snapshot

CPU = torch.device("cpu")
CONTENT = {
    "step": 3,
    "weights": {f"layer.{n}": torch.full((60, 20), float(n + 1)) for n in range(6)},
    "generator": torch.arange(5000, dtype=torch.uint8),
    "plan": ["none", "expand"],
}


def spoilt(content: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """Cut at structural boundaries and anywhere, blocks and bytes of zeros, a bit that has changed."""
    dice = random.Random(seed)
    size = len(content)
    cuts = {0, 1, 4, size - 1, size - 22, size // 2}
    cuts |= {place for place in range(size) if content.startswith(b"PK", place)}
    cuts |= {dice.randrange(size) for _ in range(60)}
    for cut in sorted(cuts):
        yield f"cut at {cut}", content[:cut]
        yield f"zeros from {cut}", content[:cut] + bytes(size - cut)
    for block in (512, 4096):
        for start in range(0, size, block):
            yield f"zeros at {start}", content[:start] + bytes(block) + content[start + block :]
    for _ in range(60):
        place = dice.randrange(size)
        yield f"bit at {place}", content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def is_as_written(found) -> bool:
    return (
        found["step"] == 3
        and found["plan"] == CONTENT["plan"]
        and torch.equal(found["generator"], CONTENT["generator"])
        and all(torch.equal(found["weights"][name], value) for name, value in CONTENT["weights"].items())
    )


@pytest.mark.filterwarnings("ignore")  # torch warns of some damaged files, before it refuses them
@pytest.mark.parametrize("known", ["f", None], ids=["resumed", "given by hand"])
def test_checkpoints(tmp_path, known):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, "f", CONTENT)
    content, refused = path.read_bytes(), 0
    for how, bad in spoilt(content, 0):
        path.write_bytes(bad)
        try:
            found = load_checkpoint(path, known, CPU)
        except TrainingError as error:
            assert "\n" not in str(error), how
            found = None
        # Some bytes of a zip file, as times and padding, mean nothing.
        assert found is None or is_as_written(found), how
        refused += found is None
    assert refused > 250
    path.write_bytes(content)
    assert is_as_written(load_checkpoint(path, known, CPU))


def test_snapshots(tmp_path):
    good = save_snapshot(tmp_path, "f", CONTENT)
    content = good.read_bytes()
    for how, bad in spoilt(content, 1):
        good.write_bytes(bad)
        assert bad == content or load_snapshot(good, "f", CPU) is None, how
    good.write_bytes(content)
    assert is_as_written(load_snapshot(good, "f", CPU))


def test_results(tmp_path):
    path = tmp_path / "result.json"
    row = RunRow(
        study="s",
        trial=4,
        state="complete",
        started_at=datetime.now(UTC),
        config="{}",
        seed=1,
        fingerprint="f",
    )
    Result(row, {"delta_m": 1.5}, {}, (1.5,)).save(path)
    content = path.read_bytes()
    assert Result.load(path, 4).values == (1.5,)
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        assert Result.load(path, 4) is None, cut
        path.write_bytes(content[:cut] + bytes(len(content) - cut))
        assert Result.load(path, 4) is None, cut
    for odd in ([], 3, None, {}, {"row": 1}, {"row": {}}, {"row": {"started_at": "x"}}):
        path.write_text(json.dumps(odd))
        assert Result.load(path, 4) is None, odd


def test_labels_and_digests_that_are_kept(tmp_path, capfd):
    """Derived labels, which classes occur, digests of files: spoilt, they are made anew, without a word."""
    root, cache = write_nyud(tmp_path / "nyud", published=()), tmp_path / "cache"

    def everything():
        dataset = NyudDataset(root, NyudConfig(), cache)
        labels = dataset.read("0003", ["normals", "edge"]).labels
        arrays = [labels["normals"], labels["edge"], dataset.class_presence(TRAIN)]
        return dataset.fingerprint, arrays

    name, arrays = everything()
    kept = [path for path in cached_files(cache) if path.name in ("output.pkl",) or path.suffix == ".json"]
    spoilt_files = 0
    assert len([path for path in kept if path.name == "output.pkl"]) == 3
    for path in kept:
        content = path.read_bytes()
        for how, bad in islice(spoilt(content, 2), 0, None, 7):
            path.write_bytes(bad)
            again, found = everything()
            assert again == name, (path, how)
            for wanted, given in zip(arrays, found, strict=True):
                np.testing.assert_array_equal(wanted, given, err_msg=f"{path} {how}")
            spoilt_files += 1
        path.write_bytes(content)
    assert spoilt_files > 100
    assert capfd.readouterr() == ("", "")


def test_a_list_in_the_place_of_a_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save([torch.zeros(3)], path)
    assert load_checkpoint(path, "f", CPU) is None
