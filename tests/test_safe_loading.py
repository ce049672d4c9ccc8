"""No file that the program reads can run code: neither ours nor one that somebody put in its place."""

from __future__ import annotations

import ast
import hashlib
import logging
import pickle
from pathlib import Path

import pytest
import torch

from dtme_search.errors import ConfigError, TrainingError
from dtme_search.models.weights import read_weights
from dtme_search.training.checkpoint import FORMAT, load_checkpoint, load_snapshot, save_checkpoint

PACKAGE = Path(__file__).parents[1] / "dtme_search"
CPU = torch.device("cpu")
RUNS_CODE = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "cloudpickle.load", "joblib.load"),
    *("marshal.load", "marshal.loads", "shelve.open", "eval", "exec", "yaml.unsafe_load", "yaml.full_load"),
}
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def offences(source: str) -> list[str]:
    """Calls that may run code from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in RUNS_CODE:
            found.append(name)
        if name in NEEDED:
            option, value = NEEDED[name]
            given = {each.arg: each.value for each in node.keywords}.get(option)
            if not isinstance(given, ast.Constant) or given.value is not value:
                found.append(f"{name} without {option}={value}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_loads_what_may_run_code(path):
    # A user's own plug-in is code, and is only run when it is named and belongs to who runs it.
    allowed = ["exec"] if path == PACKAGE / "plugins.py" else []
    assert offences(path.read_text(encoding="utf-8")) == allowed


@pytest.mark.parametrize(
    "source",
    ["torch.load(path)", "torch.load(path, weights_only=False)", "torch.load(path, weights_only=safe)",
     "np.load(path)", "pickle.loads(data)", "eval(text)"],
)  # fmt: skip
def test_the_search_for_them_finds_them(source):
    assert len(offences(source)) == 1
    assert offences("torch.load(path, map_location=None, weights_only=True); model.eval()") == []


REFUSED = ("could run code; none was run", "File is not a zip file")
"""What is no checkpoint at all is refused before anybody looks for code in it."""


class Malicious:
    """Opens a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


@pytest.fixture
def trace(tmp_path):
    """A file that is there when malicious code has run."""
    path = tmp_path / "trace"
    pickle.loads(pickle.dumps(Malicious(path))).close()
    assert path.exists(), "it works where nothing is done against it"
    path.unlink()
    yield path
    assert not path.exists()


@pytest.fixture(params=["in a checkpoint", "bare"])
def malicious(request, trace, tmp_path) -> Path:
    path = tmp_path / "checkpoint.pt"
    if request.param == "bare":
        path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    else:
        torch.save({"format": FORMAT, "fingerprint": "f", "model": Malicious(trace)}, path)
    return path


def test_a_malicious_checkpoint_is_refused(malicious):
    with pytest.raises(
        TrainingError, match=r"more than tensors and plain values, which could run code|not a zip file"
    ) as caught:
        load_checkpoint(malicious, None, CPU)
    assert "weights_only" not in str(caught.value), "nobody is told how to load it all the same"


def test_a_run_begins_again_without_one(malicious, caplog):
    assert load_checkpoint(malicious, "f", CPU) is None
    assert not malicious.exists() and any(each in caplog.text for each in REFUSED)


def test_a_malicious_trunk_is_trained_again(malicious, caplog):
    digest = hashlib.sha256(malicious.read_bytes()).hexdigest()
    trunk = malicious.rename(malicious.with_name(f"snapshot-{digest}.pt"))
    assert load_snapshot(trunk, "f", CPU) is None
    assert not trunk.exists() and any(each in caplog.text for each in REFUSED)


def test_malicious_weights_are_refused(malicious):
    with pytest.raises(ConfigError, match=r"without other objects"):
        read_weights(malicious, "model.weights")


def test_what_is_ours_is_read(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    save_checkpoint(tmp_path / "checkpoint.pt", "f", {"step": 3, "model": {"w": torch.ones(2)}})
    read = load_checkpoint(tmp_path / "checkpoint.pt", "f", CPU)
    assert read is not None and read["step"] == 3 and caplog.text == ""
