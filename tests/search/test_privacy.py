"""What a study writes is for its user alone, whatever the umask; what was there is left as it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tiny import grown, write_tiny_study

from dtme_search.search import confirm, doctor, examine, load_study, optimize
from dtme_search.search.storage.studies import open_storage
from dtme_search.search.workspace import private_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs permissions")


@pytest.fixture(autouse=True)
def _usual_umask():
    """New files can be read by everybody unless somebody says otherwise."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def draw(folder: Path, _result: object) -> list[Path]:
    (folder / "drawn.txt").write_text("a picture")
    return [folder / "drawn.txt"]


def test_every_folder_of_a_study_is_private(tmp_path):
    changes = {"tasks": {"depth": {}, "edge": {}}, "train.num_steps": 4}
    file = write_tiny_study(tmp_path, changes, trials=1, enqueue=[grown(start=0.5)])
    workdir = tmp_path / "new" / "runs"
    study = optimize(file, workdir=workdir, device="cpu", draw=draw)
    root = workdir / "tiny"
    # While a connection is open its log lies beside the database.
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        assert oct(mode(root / name)) == "0o600", name
    study.records.engine.dispose()
    confirm("tiny", workdir=workdir, top=1, seeds=1, device="cpu").records.engine.dispose()
    folders = {path for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")) if path.is_dir()}
    names = {path.name for path in folders}
    assert {"trials", "0000", "trunks", "baselines", "artifacts", "confirmations", "work"} <= names
    assert {str(path): oct(mode(path)) for path in folders if mode(path) != 0o700} == {}


def test_an_open_folder_stays_open_and_the_doctor_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_GB", 0.001)
    file = write_tiny_study(tmp_path, trials=1, reuse={"trunk_limit_gb": 0.001})
    workdir = tmp_path / "runs"
    (workdir / "tiny").mkdir(parents=True)
    optimize(file, workdir=workdir, device="cpu", timeout=0.0).records.engine.dispose()
    assert mode(workdir / "tiny") == 0o755
    assert mode(workdir / "tiny" / "study.db") == 0o600
    assert mode(workdir / "tiny" / "artifacts") == 0o700
    (check,) = [check for check in examine(file, workdir=workdir) if check.name == "privacy"]
    assert check.state == "warning"
    assert "tiny is open to other users (mode 755)" in check.found and "chmod go=" in check.found
    (workdir / "tiny").chmod(0o700)
    assert "privacy" not in {check.name for check in examine(file, workdir=workdir)}


def test_a_database_that_somebody_shares_stays_shared(tmp_path):
    path = tmp_path / "shared" / "study.db"
    url = f"sqlite:///{path}"
    open_storage(url).engine.dispose()
    assert mode(path) == 0o600
    path.chmod(0o660)
    open_storage(url).engine.dispose()
    assert mode(path) == 0o660


def test_private_folders(tmp_path):
    (tmp_path / "open").mkdir()
    assert private_folder(tmp_path / "open" / "a" / "b") == tmp_path / "open" / "a" / "b"
    assert [mode(tmp_path / "open" / part) for part in (".", "a", "a/b")] == [0o755, 0o700, 0o700]
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        private_folder(tmp_path / "file" / "a")


def test_looking_at_a_study_changes_nothing(tmp_path):
    file = write_tiny_study(tmp_path, trials=1)
    optimize(file, workdir=tmp_path / "runs", device="cpu", timeout=0.0).records.engine.dispose()
    before = {path: mode(path) for path in (tmp_path / "runs").rglob("*")}
    load_study("tiny", workdir=tmp_path / "runs").records.engine.dispose()
    assert {path: mode(path) for path in (tmp_path / "runs").rglob("*")} == before
