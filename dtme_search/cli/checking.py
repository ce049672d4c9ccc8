"""What the ``data`` commands do: check everything once and report it, prepare, show."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dtme_search.cli.screen import Screen
from dtme_search.cli.tables import print_table
from dtme_search.config import DataConfig, RunConfig, validate
from dtme_search.config.files import apply_overrides
from dtme_search.data import CheckReport, build_data, build_dataset, check_dataset, split_ids
from dtme_search.data.fitting import suitable_size, usual_size
from dtme_search.data.prepare import prepare
from dtme_search.data.reading.digests import forget_digests
from dtme_search.errors import DataError, DtmeSearchError

_TITLES = {
    "splits": "Samples",
    "sizes": "Image sizes",
    "values": "Labels",
    "partly labelled": "Partly labelled",
    "classes": "Classes",
}
_MOST_JOBS = 8
_PATCH = 16
_MOST_SIZES = 8


def check_and_print(
    screen: Screen, name: str, data_root: str | None, overrides: tuple[str, ...], *, rehash: bool = False
) -> int:
    """Check a data set and print the report; returns the number of missing or broken files."""
    if rehash:
        forget_digests()
    config = _data_config(screen, name, data_root, overrides, "data check")
    dataset = build_dataset(config, require_complete=False)
    refusal = ""
    try:
        splits = split_ids(dataset, config, final=False)
    except DtmeSearchError as error:
        splits, refusal = None, str(error)
    with progress_bar(screen, "reading") as on_progress:
        report = check_dataset(dataset, on_progress, splits, image_size=config.image_size, how=config.resize)
    _print_report(screen, report)
    if refusal and report.ok:
        # A broken file, which is listed above, may be all that is wrong with the splits.
        raise DataError(refusal)
    return len(report.problems)


def prepare_and_print(screen: Screen, name: str, source: Path, out: Path, jobs: int | None) -> None:
    """Convert a published data set to its folder layout and print the next command."""
    with progress_bar(screen, "preparing") as on_progress:
        report = prepare(
            name, source, out, jobs=jobs or min(os.cpu_count() or 1, _MOST_JOBS), on_progress=on_progress
        )
    screen.line(f"{report.num_samples} samples written to {report.out}")
    screen.news(
        f"Next:  {shlex.join(['dtme-search', 'data', 'check', name, '--data-root', str(report.out)])}"
    )


def show_and_print(
    screen: Screen,
    name: str,
    out: Path,
    data_root: str | None,
    overrides: tuple[str, ...],
    *,
    num_images: int,
    seed: int,
) -> None:
    """Draw a contact sheet of training images and labels and print its path."""
    from dtme_search.reporting import label_sheet, save_png
    from dtme_search.reporting.targets import refuse_foreign
    from dtme_search.training import pick_device

    refuse_foreign(out)
    config = _data_config(screen, name, data_root, overrides, "data show")
    # Behind a loader only the images on the sheet are read.
    reading = config.model_copy(update={"storage": "loader", "loader_workers": 0})
    dataset = build_dataset(config)
    data = build_data(reading, tuple(dataset.tasks), pick_device("cpu"), dataset=dataset, read=())
    batch = next(data.train_batches(num_images, seed))
    ids = ", ".join(data.splits.train[index] for index in batch.indices.tolist())
    height, width = config.image_size
    title = f"{name}: training images after augmentation, {height}x{width}, seed {seed}\n{ids}"
    save_png(label_sheet(batch, data.specs, config, title), out)
    screen.line(f"Written: {out}")


def _data_config(
    screen: Screen, name: str, data_root: str | None, overrides: tuple[str, ...], where: str
) -> DataConfig:
    """The data section; without a network the size suits patches of 16 if it is left open."""
    data: dict[str, Any] = {"name": name, "root": data_root}
    if name.endswith((".yaml", ".yml")):
        data |= {"name": "folder", "folder": {"description": name}}
    config = validate(RunConfig, apply_overrides({"data": data}, overrides), where).data
    usual = None if "image_size" in config.model_fields_set else usual_size(config)
    if usual is None:
        return config
    size = suitable_size(usual, _PATCH)
    screen.hint(
        "data.image_size is not set: {}x{} suits images of {}x{} in patches of {}.".format(
            *size, *usual, _PATCH
        )
    )
    return config.model_copy(update={"image_size": size})


@contextmanager
def progress_bar(screen: Screen, doing: str) -> Iterator[Callable[[int, int], None]]:
    """A bar in a terminal, and nothing elsewhere; yields a function of the numbers done and in total."""
    bars = Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=screen.console,
        transient=True,
        disable=not screen.is_live,
    )
    with bars:
        bar = bars.add_task(doing, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _print_report(screen: Screen, report: CheckReport) -> None:
    tables = report.tables()
    sizes = sorted(tables["sizes"], key=lambda row: -row["images"])
    rest = sizes[_MOST_SIZES:]
    tables["sizes"] = sizes[:_MOST_SIZES]
    if rest:
        further = {"height": f"{len(rest)} further sizes", "images": sum(row["images"] for row in rest)}
        tables["sizes"].append({**further, "width": None})
    for key, title in _TITLES.items():
        if rows := tables[key]:
            # Leave out empty columns.
            columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
            print_table(
                screen.console,
                title,
                [column.replace("_", " ") for column in columns],
                [[_text(row[column]) for column in columns] for row in rows],
            )
            screen.line("")
    for note in report.notes():
        screen.say(note, style="yellow")
    for problem in report.problems:
        screen.line(f"{problem.split} {problem.sample_id}: {problem.message}", style="red")
    if report.ok:
        screen.say("Every file was read.")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
