"""What is written for a user never takes the place of something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dtme_search.errors import ConfigError
from dtme_search.reporting import save_png
from dtme_search.reporting.targets import panel_names, refuse_foreign


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
    names = panel_names([Path(each) for each in pictures])
    assert len({name.casefold() for name in names}) == len(pictures)
    assert all("/" not in name and name.endswith("-panels.png") for name in names)


def test_names_that_are_alone_stay_short():
    assert panel_names([Path("a/one.jpg"), Path("b/two.jpg")]) == ["one-panels.png", "two-panels.png"]


def test_a_file_of_somebody_else_is_never_replaced(tmp_path):
    refuse_foreign(tmp_path / "new.png")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG my only copy")
    with pytest.raises(ConfigError, match=r"photo\.png exists already and was not written by dtme-search"):
        refuse_foreign(tmp_path / "photo.png")
    save_png(Figure(), tmp_path / "ours.png")
    refuse_foreign(tmp_path / "ours.png")
