"""Stand-ins for workers: scripts that write down how they were started and what signals they got."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

CHILD = """#!{python}
import json, os, signal, sys, time
pause = lambda: time.sleep(0.02)
number = len(os.listdir({folder!r}))
path = os.path.join({folder!r}, f"{{os.getpid()}}.json")
told = {{"argv": sys.argv[1:], "env": dict(os.environ), "modules": sorted(sys.modules), "signals": []}}
def write():
    with open(path + ".new", "w") as file: json.dump(told, file)
    os.replace(path + ".new", path)
def heard(number, frame):
    told["signals"].append(number); write()
    if {patient}: sys.exit(130)
for each in (signal.SIGTERM, signal.SIGINT): signal.signal(each, heard)
write()
{story}
"""


class Children:
    """Stand-ins for the Python that runs a worker: they write down how they were started.

    Args:
        folder: For what they write down.
        monkeypatch: Puts them in place in this process.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.folder, self._python = folder, sys.executable
        (folder / "told").mkdir()
        if monkeypatch is not None:
            monkeypatch.setattr(sys, "executable", str(self.script))

    @property
    def script(self) -> Path:
        return self.folder / "python"

    def will(self, story: str, *, patient: bool = True) -> None:
        told = str(self.folder / "told")
        self.script.write_text(CHILD.format(python=self._python, folder=told, story=story, patient=patient))
        self.script.chmod(0o700)

    def told(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted((self.folder / "told").glob("*.json"))]
