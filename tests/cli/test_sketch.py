"""A study drawn with letters."""

from __future__ import annotations

import pandas as pd

from dtme_search.cli.sketch import front_points, layer_blocks, plot_points


def test_blocks_keep_the_letters_and_differ_in_colour():
    blocks = layer_blocks(".MEB")
    assert blocks.plain == " .  M  E  B "
    assert len({str(span.style) for span in blocks.spans}) == 4


def test_extremes_lie_at_the_edges_and_the_front_is_on_top():
    trials = pd.DataFrame(
        {
            "state": ["complete", "complete", "complete", "pruned", "complete"],
            "delta_m_percent": [-1.0, 2.0, 2.0, 50.0, 0.0],
            "param_overhead_percent": [0.0, 1.0, 1.0, 0.5, 0.5],
            "feasible": [True, True, False, None, None],
            "on_front": [False, True, False, False, False],
        }
    )
    points = front_points(trials, "delta_m_percent", "param_overhead_percent")
    assert [mark for *_, mark in points] == ["x", "o", "o", "*"]
    lines = plot_points(points, width=11, height=4)
    assert lines[0] == "+2.00 |          *" and lines[3] == "-1.00 |o"
    assert lines[-1].split() == ["0.000", "1.000"]
    assert sum(line.count("o") for line in lines) == 2


def test_one_point_is_a_plot_too():
    assert plot_points([(1.0, 1.0, "*")], width=12, height=2)[1].endswith("|*")
