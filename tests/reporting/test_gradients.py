"""The figure of the gradients, from rows as a trial writes them."""

from __future__ import annotations

from dtme_search.reporting.figures import FIGURES
from dtme_search.reporting.study_data import read_study_data
from dtme_search.search.storage.rows import GradientRow


def rows(step: int, grown: int, cosine: float) -> list[GradientRow]:
    return [
        GradientRow(
            step=step, grown=grown, layer_group=group, pair=pair, task_a="depth", task_b=other, num_pairs=4,
            cosine=value, cosine_std=0.1, magnitude_similarity=0.5, conflicting=0.4,
        )
        for group in ("all", "block 0", "block 1")
        for pair, other, value in (("tasks", "edge", cosine), ("images", "depth", 0.55))
    ]  # fmt: skip


def test_it_shows_what_trials_saw(study_copy):
    draw = next(figure.draw for figure in FIGURES if figure.name == "gradients")
    (note,) = draw(read_study_data(study_copy)).layout.annotations
    assert "train.statistics.every" in note.text
    records = study_copy.records
    records.save_gradients("tiny", 3, [*rows(0, 0, -0.2), *rows(5, 0, -0.1), *rows(5, 1, 0.1)])
    records.save_gradients("tiny", 3, rows(5, 1, 0.3))  # a resumed trial looks again
    assert len(records.gradients("tiny", 3)) == 18
    figure = draw(read_study_data(study_copy))
    lines = {(trace.name, trace.showlegend is not False): trace for trace in figure.data}
    course = lines["two tasks, not grown", True]
    assert (list(course.x), list(course.y)) == ([0.0, 0.5], [-0.2, -0.1])
    assert list(lines["two tasks, grown", True].y) == [0.3]
    spread = lines["two images of a task, grown", False]
    assert dict(zip(spread.x, spread.y, strict=True))[0.5] == 100.0
