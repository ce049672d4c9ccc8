"""``report``: a study as one file, for people who were not involved."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd

from dtme_search.reporting.costs import cost_doubt, marked_costs, threads_in_words
from dtme_search.reporting.document import (
    Block,
    Bullets,
    Chart,
    Code,
    Heading,
    Paragraph,
    Table,
    to_html,
    to_markdown,
)
from dtme_search.reporting.effects import effects, p_in_words
from dtme_search.reporting.figures import telling_figures
from dtme_search.reporting.legend import telling
from dtme_search.reporting.measures import without_measures
from dtme_search.reporting.sections import (
    baseline_section,
    frame_table,
    front_section,
    next_commands,
    task_section,
)
from dtme_search.reporting.separation import separation_section
from dtme_search.reporting.story import story, subject
from dtme_search.reporting.study_data import StudyData, read_study_data
from dtme_search.reporting.targets import refuse_foreign, write_own_text
from dtme_search.search import LoadedStudy
from dtme_search.version import __version__

ReportFormat = Literal["html", "md"]

_MOST_ROWS = 100
"""Number of trials listed individually; `show --format csv` has longer lists."""


def write_report(study: LoadedStudy, path: Path, form: ReportFormat | None = None) -> Path:
    """Write the report of a study.

    Args:
        study: The study.
        path: File to write.
        form: ``html`` (figures, no network needed) or ``md`` (words and tables); by default according to the
            file's name.

    Raises:
        ConfigError: If a file that is not ours is there.
        ExportError: If the file cannot be written.
    """
    refuse_foreign(path)
    chosen = form or ("md" if path.suffix == ".md" else "html")
    data = read_study_data(study)
    title = f"Study {study.name}"
    blocks = report_blocks(data, with_figures=chosen == "html")
    text = to_html(title, blocks) if chosen == "html" else to_markdown(blocks)
    return write_own_text(path, text)


def report_blocks(data: StudyData, *, with_figures: bool = True) -> list[Block]:
    """The whole content of the report."""
    figures = telling_figures(data) if with_figures else []
    charts = [Chart(figure.key, picture, figure.caption) for figure, picture in figures]
    return [
        Heading(f"Study {data.name}", 1),
        *([Paragraph(f"{data.config.description}.")] if data.config.description else []),
        Paragraph(subject(data)),
        Heading("Findings"),
        Bullets(story(data)),
        *front_section(data),
        *task_section(data),
        *baseline_section(data),
        *([Heading("Figures")] if charts else []),
        *charts,
        *_choices(data),
        *separation_section(data),
        *_trials(data),
        *_again(data),
        *_provenance(data),
    ]


def _choices(data: StudyData) -> list[Block]:
    found = effects(data)
    if not found:
        return []
    rows = [
        (
            effect.parameter,
            effect.best,
            effect.worst,
            f"{effect.difference:+.2f}",
            str(effect.num_trials),
            p_in_words(effect.p_value).removeprefix("p ").removeprefix("= "),
            "yes" if effect.is_distinguishable else "no",
        )
        for effect in found
    ]
    columns = ("choice", "better", "worse", "difference of delta_m", "trials", "p", "more than chance")
    return [
        Heading("Which choices are associated with delta_m"),
        Table(columns, rows),
        Paragraph(
            "Rank tests over the feasible trials (Kruskal-Wallis by value, Spearman along a scale), p-values "
            "corrected for the number of choices by Holm's method. The sampler returns to where it was good, "
            "so trials are not independent: a guide, not proof."
        ),
    ]


def _trials(data: StudyData) -> list[Block]:
    if data.trials.empty:
        return []
    shown = marked_costs(data.trials).assign(state=data.kinds).drop(columns=["feasible", "on_front"])
    shown = without_measures(shown, data.study, searched=True)
    shown = telling(shown, data.study)
    blocks: list[Block] = [Heading("All trials"), frame_table(shown.tail(_MOST_ROWS))]
    if len(shown) > _MOST_ROWS:
        blocks.append(
            Paragraph(
                f"The last {_MOST_ROWS} of {len(shown)}; "
                f"`{data.study.place.command('show', '--format', 'csv')}` gives all."
            )
        )
    if doubt := cost_doubt(data.trials):
        blocks.append(Paragraph(doubt))
    return blocks


def _again(data: StudyData) -> list[Block]:
    return [Heading("To reproduce this"), Code("\n".join(next_commands(data)))]


def _provenance(data: StudyData) -> list[Block]:
    runs = list(data.runs.values())
    if not runs:
        return []
    found = pd.DataFrame(
        [
            {
                "dtme-search": run.code_version, "torch": run.torch_version, "timm": run.timm_version,
                "optuna": run.optuna_version, "python": run.python_version, "device": run.device,
                "precision": run.precision, "split": run.split, "seed": run.seed,
            }
            for run in runs
        ]
    )  # fmt: skip
    rows = [(name, ", ".join(sorted({str(v) for v in column.dropna()}))) for name, column in found.items()]
    hours = sum(run.seconds_total or 0.0 for run in runs if run.state != "interrupted") / 3600
    return [
        Heading("Versions and machine"),
        Table(("what", "of the trials"), [(str(name), text) for name, text in rows if text]),
        Paragraph(
            f"All trials together took {_duration(hours)}. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by "
            f"dtme-search {__version__}. {threads_in_words(data.study)}"
        ),
    ]


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
