"""Results of the leaders with further seeds, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dtme_search.cli.screen import Screen
from dtme_search.cli.tables import print_frame

if TYPE_CHECKING:
    from dtme_search.reporting import Frame
    from dtme_search.search import LoadedStudy, RunRow

CONFIRMED = ("delta_m_mean", "delta_m_std", "num_seeds")
"""Columns that have a table of their own."""


def print_confirmed(screen: Screen, study: LoadedStudy, trials: Frame | None = None) -> None:
    """Confirmed configurations, best mean first, and whether the first can be distinguished from the second.

    ``trials`` is the study's ``trials_table``, if it is already available.
    """
    from dtme_search.reporting import confirmed_table
    from dtme_search.search import doubt_about_leader, ranking

    table = confirmed_table(study, trials)
    if table.empty:
        return
    screen.line("")
    print_frame(
        screen.console, "Confirmed with further seeds", table.rename(columns={"delta_m_percent": "search"})
    )
    screen.line("")
    screen.hint(
        "mean, standard deviation and gains over the further seeds, each against the single-task baselines "
        "of its seed (with --no-baselines those of the search); paired: the mean gain over the "
        "unexpanded network of each seed, which shares its noise. The seed of the search is left "
        "out, because its value was selected for being high.",
    )
    doubt = doubt_about_leader(ranking(study))
    if doubt:
        screen.say(f"{doubt[0].upper()}{doubt[1:]}.")


def best_in_words(study: LoadedStudy, number: int) -> str:
    """How far the best trial can be trusted."""
    from dtme_search.reporting import against
    from dtme_search.search import confirmations

    (run,) = study.records.runs(study.name, number)
    confirmed = confirmations(study).get(number)
    if confirmed is None:
        return (
            f"Best: trial {number}, delta_m {run.delta_m_percent:+.2f} % on the hold-out against "
            f"{against(run)}{_paired(run)}, one seed: differences of about a point may be noise."
        )
    lead = confirmed.paired
    ahead = (
        f", {lead.points:+.2f} points over the unexpanded network of each seed, standard error "
        f"{lead.standard_error:.2f}"
        if lead
        else ""
    )
    return (
        f"Best: trial {number}, delta_m on the hold-out: {confirmed.in_words()}{ahead}; "
        f"{run.delta_m_percent:+.2f} % in the search{_paired(run)}; against {against(run)}."
    )


def _paired(run: RunRow) -> str:
    if run.paired_gain_percent is None:
        return ""
    return f" ({run.paired_gain_percent:+.2f} points over the unexpanded trial {run.paired_trial})"
