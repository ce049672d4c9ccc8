"""TensorBoard: event files in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dtme_search.search.trackers.points import TrackedRun, Value
from dtme_search.search.trackers.tracker import Tracker
from dtme_search.search.workspace import private_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Tracker):
    """Writes event files for TensorBoard, a folder for the study and one for each trial.

    Args:
        folder: Where; ``<folder>/<study>/trial-0003``. By default ``tensorboard`` in the study's folder.

    Example:
        >>> optimize("demo", callbacks=[TensorBoard("runs")])     # doctest: +SKIP
    """

    extra = "tensorboard"

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def begin(self, run: TrackedRun, settings: Mapping[str, Value]) -> None:
        from torch.utils.tensorboard.summary import hparams

        # What the tab HPARAMS shows; the number only declares the measure and is not written.
        experiment, start, _ = hparams(dict(settings), {"delta_m_percent": 0.0})
        files = self._writer(run)._get_file_writer()
        files.add_summary(experiment)
        files.add_summary(start)

    def values(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        writer = self._writer(run)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def text(self, run: TrackedRun, name: str, text: str) -> None:
        as_code = "\n".join(f"    {line}" for line in text.splitlines())
        self._writer(run).add_text(name, as_code)

    def picture(self, run: TrackedRun, name: str, path: Path) -> None:
        from dtme_search.data.reading.pictures import read_image

        self._writer(run).add_image(name, read_image(path), dataformats="HWC")

    def end(self, run: TrackedRun, facts: Mapping[str, Value]) -> None:
        if facts:
            self.text(run, "result", "\n".join(f"{name}: {value}" for name, value in facts.items()))
        self._writers.pop(run.key).close()

    def _writer(self, run: TrackedRun) -> SummaryWriter:
        if run.key not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            study = run.study
            root = study.folder / "tensorboard" if self._folder is None else Path(self._folder) / study.name
            self._writers[run.key] = SummaryWriter(str(private_folder(root / run.label)))
        return self._writers[run.key]
