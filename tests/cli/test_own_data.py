"""The tutorial of docs/own-data.md, followed word by word on a small orchard."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from own_folder import DESCRIPTION, write_own

from dtme_search.config import load_description

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


COMMANDS = [
    shlex.split(line)[1:]
    for block in blocks("bash")
    for line in block.splitlines()
    if line.startswith("dtme-")
]


@pytest.fixture
def orchard(tmp_path):
    """The folder, the description and the study of the page, in the working folder of the commands."""
    write_own(tmp_path, 12)
    (tmp_path / "orchard.yaml").write_text(blocks("yml")[0])
    (tmp_path / "orchard-study.yaml").write_text(blocks("yaml")[0])
    return tmp_path


def test_the_tables_name_what_there_is():
    from dtme_search.config.description import ENCODINGS, LOSSES, METRICS
    from dtme_search.config.image_task import IMAGE_LOSSES, IMAGE_METRICS

    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE))
    for kind, encodings in ENCODINGS.items():
        cells = rows[kind].split("|")
        for cell, names in zip(cells[1:], (encodings, LOSSES[kind], METRICS[kind]), strict=True):
            assert re.findall(r"`(\w+)`", cell) == list(names)
    for image_kind, losses in IMAGE_LOSSES.items():
        cells = rows[image_kind].split("|")
        for cell, names in zip(cells[1:], (losses, IMAGE_METRICS[image_kind]), strict=True):
            assert re.findall(r"`(\w+)`", cell) == list(names)


def test_the_description_is_that_of_the_test_data(orchard):
    shown = yaml.safe_load((orchard / "orchard.yaml").read_text())
    assert shown["tasks"].keys() == DESCRIPTION["tasks"].keys() - {"faces"}
    assert load_description(orchard / "orchard.yaml").root == "orchard"


@pytest.mark.slow
def test_every_command_of_the_page_runs_in_its_order(run, orchard):
    """And the search does so although no file of the test split can be read."""
    spoilt = {}
    for words in COMMANDS:
        if words[0] == "optimize":
            listed = run("-q", "data", "check", "orchard.yaml")
            assert listed.code == 0
            spoilt = spoil_the_test_split(orchard)
        if words[0] == "train":
            for path, content in spoilt.items():
                path.write_bytes(content)
        done = run(*words)
        assert done.code == 0, f"{words}: {done.err}"
    assert (orchard / "sheet.png").stat().st_size > 20_000
    assert {"optimize", "export", "train"} <= {words[0] for words in COMMANDS}
    assert "test split" in done.out


def spoil_the_test_split(folder):
    from dtme_search.config import DataConfig, FolderConfig
    from dtme_search.data import build_dataset

    config = DataConfig(name="folder", folder=FolderConfig(description=str(folder / "orchard.yaml")))
    spoilt = {}
    for sample_id in build_dataset(config).ids("test"):
        for path in (folder / "orchard").rglob(f"*{sample_id}.*"):
            spoilt[path] = path.read_bytes()
            # As long as before: the data must be the same data, and yet no decoder takes it.
            path.write_bytes(b"x" * len(spoilt[path]))
    assert spoilt
    return spoilt
