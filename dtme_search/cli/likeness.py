"""The command that compares the tasks of a study."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dtme_search.cli import options
from dtme_search.cli.app import screen_of
from dtme_search.cli.on_demand import commands
from dtme_search.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dtme_search.cli.screen import Screen
    from dtme_search.reporting.task_likeness import DataMap, PairLikeness, Worth

_CAUTION = (
    "Alike means that the same images are hard for both tasks. It does not mean that one helps the other: "
    "search the roles (tasks.NAME.role: {choices: [auxiliary, absent]}) to find out."
)


@commands.command(epilog="Example:  dtme-search tasks --study rooms --groups 2 --write enqueue.yaml")
def tasks(
    context: typer.Context,
    study: options.Study,
    groups: Annotated[
        int | None, typer.Option("--groups", min=1, help="Split the tasks into this many groups.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write the groups, or points for `enqueue:` if roles are searched."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="CSV",
            help="Write confidence, variability and correctness of each image of the data maps.",
        ),
    ] = None,
    data_root: options.DataRoot = None,
    storage: options.Storage = None,
    workdir: options.Workdir = options.DEFAULT_WORKDIR,
) -> None:
    """Show which tasks are alike, and which auxiliary tasks helped.

    Needs trials that kept a data map (train.statistics.map_images: 256 in the base config). Also shows
    gradient cosines and conflict rates where trials measured them.
    """
    from dtme_search.config import dump_yaml
    from dtme_search.reporting import task_likeness as likeness
    from dtme_search.search import load_study
    from dtme_search.search.storage.studies import stored_base_config

    loaded, screen = load_study(study, storage=storage, workdir=workdir), screen_of(context)
    base = stored_base_config(loaded.optuna)
    names = tuple(base.tasks)
    if len(names) < 2:
        raise ConfigError(
            f"study {study}: must have at least two tasks to compare, got {names[0]}. Compare another study."
        )
    if groups is not None and groups > len(names):
        raise ConfigError(f"--groups must be at most {len(names)}, the number of tasks, got {groups}.")
    maps = likeness.data_maps(loaded)
    rows = likeness.pair_table(loaded, maps, names)
    worth = likeness.worth_of_auxiliaries(loaded, rows, base.primary_tasks, base.auxiliary_tasks)
    searched = [path for path in loaded.config.search if path.startswith("tasks.") and path.endswith(".role")]
    if not maps:
        screen.say(
            f"No complete trial of {study} kept a data map. Set train.statistics.map_images: 256 in the base "
            "config of a new study; it changes no result."
        )
    _print_pairs(screen, rows)
    _print_worth(screen, worth)
    found = likeness.groups_of(rows, names, groups) if groups and maps else []
    for number, group in enumerate(found, 1):
        screen.line(f"group {number}: {', '.join(group)}")
    _print_correctness(screen, maps)
    screen.hint(_CAUTION)
    if images is not None:
        if not maps:
            raise ConfigError(f"--images needs a trial that kept a data map, got none in {study}.")
        from dtme_search.reporting.image_map import save_image_map

        save_image_map(loaded, maps, images, data_root)
        screen.line(str(images))
    if write is None:
        return
    from dtme_search.reporting.targets import write_own_text

    header = f"Written by dtme-search tasks for study {study}"
    if searched:
        points = likeness.points_to_try(worth, base.auxiliary_tasks, searched)
        text = dump_yaml({"enqueue": points}, header)
    elif found:
        text = dump_yaml({"groups": found}, header)
    else:
        raise ConfigError(
            "--write needs --groups N and a data map, or a study that searches tasks.NAME.role, got neither."
        )
    screen.line(str(write_own_text(write, text)))


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)


def _print_pairs(screen: "Screen", rows: "Sequence[PairLikeness]") -> None:
    from dtme_search.cli.tables import print_table

    columns = ["tasks", "likeness", "gradient cosine", "range conflicts", "null conflicts"]
    texts = [
        [
            f"{row.task_a}, {row.task_b}",
            _number(row.likeness, "+.2f"),
            _number(row.cosine, "+.3f"),
            *(f"{_number(100 * rate, '.1f')} %" if rate == rate else "" for rate in row[4:]),
        ]
        for row in rows
    ]
    shown = [0, *(place for place in range(1, 5) if any(text[place] for text in texts))]
    print_table(
        screen.console,
        "Tasks, the most alike first",
        [columns[place] for place in shown],
        [[text[place] for place in shown] for text in texts],
    )


def _print_correctness(screen: "Screen", maps: "Sequence[DataMap]") -> None:
    """For tasks about whole images: how often the images of the last map were predicted right."""
    for task in maps[-1].hits if maps else ():
        known = maps[-1].correctness_known(task)
        screen.line(
            f"{task}: in trial {maps[-1].trial}, {len(known)} training images were right in "
            f"{100 * known.mean():.0f} % of the evaluations, {int((known == 0).sum())} of them never"
        )


def _print_worth(screen: "Screen", worth: "Sequence[Worth]") -> None:
    from dtme_search.cli.tables import print_table

    if not worth:
        return
    rows = [
        [
            row.primary,
            row.auxiliary,
            _number(row.likeness, "+.2f"),
            _number(row.difference, "+.2f"),
            _number(row.standard_error, ".2f"),
            f"{row.trials_with} / {row.trials_without}",
        ]
        for row in worth
    ]
    screen.line("")
    print_table(
        screen.console,
        "Effect of auxiliary tasks",
        ["task", "auxiliary", "likeness", "gain with it", "s.e.", "trials with / without"],
        rows,
    )
    screen.hint(
        "gain with it: mean gain of the task in trials that train the auxiliary task, minus that of trials "
        "that do not, in points. These trials differ in other ways too.",
    )
