"""What separates the front: hand-worked counts, one sentence, a table."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from dtme_search.config import RunConfig
from dtme_search.operations import OPERATIONS
from dtme_search.reporting.document import to_markdown
from dtme_search.reporting.separation import separation_section, separation_sentence, separations

PLAIN = RunConfig.model_validate({"tasks": {"semseg": {}, "depth": {"role": "auxiliary"}}})


def config(combine: str = "sum", schedule: str = "constant") -> str:
    train = PLAIN.train.model_copy(
        update={"combine": PLAIN.train.combine.model_copy(update={"kind": combine})}
    )
    fading = PLAIN.schedule.model_copy(update={"kind": schedule})
    return PLAIN.model_copy(update={"train": train, "schedule": fading}).model_dump_json()


def study(*rows: tuple[str, str, bool, float], origins: tuple[float, ...] = ()):
    """Operations, config, whether on the front, delta_m of each trial."""
    runs = {n: SimpleNamespace(operations=row[0], config=row[1]) for n, row in enumerate(rows)}
    trials = pd.DataFrame(
        {
            "trial": list(runs),
            "on_front": [row[2] for row in rows],
            "delta_m_percent": [row[3] for row in rows],
            "origin_trial": origins or [float("nan")] * len(rows),
        }
    )
    return SimpleNamespace(feasible=trials, runs=runs)


LORA = [("lora none", config(), True, 3.0)] * 4
OTHERS = [
    *[("none none", config("pcgrad"), False, 0.0)] * 3,
    *[("both none", config(), False, 1.0)] * 3,
]


def test_what_all_of_the_front_and_nobody_else_has_separates_it():
    found = {each.way: each for each in separations(study(*LORA, *OTHERS))}
    assert list(found) == ["tokens", "weights", "gradients"], "nobody fades a task"
    weights = found["weights"]
    assert (weights.front, weights.num_front, weights.others, weights.num_others) == (4, 4, 0, 6)
    assert weights.difference == pytest.approx(3.0 - 0.5)
    # One of the 10! / (4! 6!) = 210 ways to choose four of ten; three ways were compared.
    assert weights.p_value == pytest.approx(3 / 210)
    # None of 4 against 3 of 6 is not rare: 35 of 210 choices.
    assert found["tokens"].p_value == found["gradients"].p_value > 0.05
    sentence = separation_sentence(study(*LORA, *OTHERS))
    assert sentence == (
        "What separates the front from the other trials: **room in the weights** (4 of 4 on the front, "
        "0 of 6 others, p = 0.014)."
    )
    table = to_markdown(separation_section(study(*LORA, *OTHERS)))
    assert "| room in the weights | 4 of 4 | 0 of 6 | 0.014 | +2.50 |" in table


def test_nothing_is_a_finding_too():
    mixed = study(LORA[0], *OTHERS, ("both+lora none", config(schedule="switch"), False, 2.0))
    sentence = separation_sentence(mixed)
    assert sentence.startswith("**Nothing separates the front** from the other trials beyond chance")
    assert "room in the weights: 1 of 1 on the front, 1 of 7 others" in sentence
    assert "auxiliary tasks that fade: 0 of 1 on the front, 1 of 7 others" in sentence


def test_without_two_ways_there_is_no_question():
    assert separations(study(*LORA, ("none none", config(), False, 0.0))) == []
    assert separation_sentence(study(*LORA)) == ""
    assert separation_section(study(*LORA)) == []


def test_a_result_that_was_taken_over_counts_once():
    origins = (*[float("nan")] * 10, 0.0, 0.0)
    again = study(*LORA, *OTHERS, LORA[0], LORA[0], origins=origins)
    assert separations(again) == separations(study(*LORA, *OTHERS))


def test_every_operation_makes_room_somewhere():
    assert {spec.room for spec in OPERATIONS.values()} == {"tokens", "weights"}
