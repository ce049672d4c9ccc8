"""What is written for a user never takes the place of something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import invoke
from matplotlib.figure import Figure

from dtme_search.errors import ConfigError, DtmeSearchError, ExportError
from dtme_search.reporting import save_png
from dtme_search.reporting.targets import find_pictures, output_names, refuse_foreign, write_own_text


@pytest.mark.parametrize(
    "pictures",
    [
        ["a/shot.jpg", "b/shot.jpg", "a/shot.png"],
        ["a/x.jpg", "a/x.jpg"],
        ["a-b/x.jpg", "a/b-x.jpg", "a/b/x.jpg"],
        ["Shot.jpg", "shot.jpg", "shot.JPG"],
        ["../x.jpg", "x.jpg", "/x.jpg", "./x.jpg"],
        ["x.jpg", "x.jpg-2.png", "x.jpg"],
    ],
)
def test_every_picture_has_a_name_of_its_own(pictures):
    names = [each.panels for each in output_names([Path(each) for each in pictures])]
    assert len({name.casefold() for name in names}) == len(pictures)
    assert all("/" not in name and name.endswith("-panels.png") for name in names)


def test_names_that_are_alone_stay_short():
    names = output_names([Path("a/one.jpg"), Path("b/two.jpg")], {"depth": "png", "faces": "npy"})
    assert [each.panels for each in names] == ["one-panels.png", "two-panels.png"]
    assert dict(names[1].rasters) == {"depth": "two-depth.png", "faces": "two-faces.npy"}


@pytest.mark.parametrize(
    ("pictures", "tasks"),
    [
        (["x/a-b.jpg", "x/a.jpg"], ["c", "b-c"]),
        (["a.jpg"], ["panels", "panels-2", "Panels"]),
        (["a.jpg", "a-x.jpg"], ["x-panels", "panels"]),
        (["a.jpg", "A.png", "a-2.jpg"], ["2-depth", "depth"]),
    ],
)
def test_no_two_files_of_all_pictures_and_tasks_share_a_name(pictures, tasks):
    found = output_names([Path(each) for each in pictures], dict.fromkeys(tasks, "png"))
    files = [name.casefold() for each in found for name in (each.panels, *each.rasters.values())]
    assert len(set(files)) == len(files) == len(pictures) * (1 + len(tasks))
    assert all(list(each.rasters) == tasks for each in found)


def test_what_was_written_is_no_picture_however_the_folder_is_named(tmp_path, monkeypatch):
    for name in ("photos/one.png", "photos/out/one-panels.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    for places, out in (("photos", "link/out"), ("link", "photos/out"), ("photos", tmp_path / "photos/out")):
        assert [path.name for path in find_pictures([Path(places)], Path(out))] == ["one.png"]


def test_a_file_of_somebody_else_is_never_replaced(tmp_path):
    refuse_foreign(tmp_path / "new.png")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG my only copy")
    with pytest.raises(ConfigError, match=r"photo\.png already exists and was not written by dtme-search"):
        refuse_foreign(tmp_path / "photo.png")
    save_png(Figure(), tmp_path / "ours.png")
    refuse_foreign(tmp_path / "ours.png")


def test_a_text_is_renewed_but_never_takes_the_place_of_another(tmp_path):
    ours, theirs = tmp_path / "new" / "ours.md", tmp_path / "theirs.md"
    write_own_text(ours, "x" * 5000 + " written by dtme-search")
    assert write_own_text(ours, "dtme-search, again").read_text() == "dtme-search, again"
    theirs.write_text("my own notes")
    with pytest.raises(ConfigError, match="already exists and was not written by dtme-search"):
        write_own_text(theirs, "dtme-search")
    assert theirs.read_text() == "my own notes"
    with pytest.raises(ExportError, match="cannot be written"):
        write_own_text(theirs / "below.md", "dtme-search")


@pytest.mark.parametrize(
    "words",
    [("export", "--best", "--force"), ("report",), ("tasks", "--write")],
    ids=lambda words: words[0],
)
def test_no_command_writes_over_a_file_of_the_user(finished_study, tmp_path, words):
    """``tasks`` has nothing to write here, and leaves the file alone as well."""
    file = tmp_path / "mine.yaml"
    file.write_text("my own notes")
    option = ("--write",) if words[0] == "tasks" else (*words[1:], "--out")
    place = ("--study", "tiny", "--workdir", str(finished_study.workdir))
    done = invoke(words[0], *place, *option, file)
    assert done.exit_code != 0 and isinstance(done.exception, DtmeSearchError)
    assert file.read_text() == "my own notes"
