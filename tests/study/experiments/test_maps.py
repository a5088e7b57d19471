"""The maps of the sensitivity chapter: how rows are laid out, what is coloured, what the two menus change."""

from itertools import product

import pytest

from study.experiments import _maps as maps
from study.experiments.sensitivity import STATES


def rows(task="I"):
    """2 x 3 settings; all seeds are on a level, but half of those of the last setting diverge."""
    found = []
    for lr, alpha in product((1.0, 0.1), (4.0, 0.01, 0.1)):
        states = dict.fromkeys(STATES, 0.0) | {"level": 1.0}
        if (lr, alpha) == (1.0, 4.0):
            states |= {"level": 0.5, "diverges": 0.5}
        numbers = {"mean": lr + alpha, "latent": 0.0, "optimum": 1.0, "feasible": 1.0, "last_change": 2.0}
        found.append({"task": task, "lr": lr, "alpha": alpha, **states, **numbers})
    return found


def test_rows_are_laid_out_by_increasing_settings():
    xs, ys, lines = maps.lay_out(rows(), "lr", "alpha")
    assert (xs, ys) == ([0.1, 1.0], [0.01, 0.1, 4.0])
    assert [[(r["lr"], r["alpha"]) for r in line] for line in lines] == [[(x, y) for x in xs] for y in ys]
    with pytest.raises(KeyError):
        maps.lay_out(rows()[1:], "lr", "alpha")


def test_a_tie_counts_as_the_worse_state():
    assert {maps.majority(r) for r in rows()[1:]} == {STATES.index("level")}
    assert maps.majority(rows()[0]) == STATES.index("diverges")


def test_a_map_shows_states_and_its_menu_the_losses():
    stored = rows("I") + rows("II")
    panels = {f"Task {task}": {"task": task} for task in ("I", "II")}
    views = {"α": maps.Map({}, "lr", "γ", "alpha", "α", [(1.0, 4.0), (0.1, 0.1)])}
    fig = maps.draw("what is seen", stored, panels, views, "γ", "what it says", rows=1)
    states, mark, *_ = fig.data
    assert fig.layout.title.text == "what it says"
    assert [list(line) for line in states.z] == [[5, 5], [5, 5], [5, 0]]
    assert (mark.x[0], mark.y[0]) == (1, 2) and fig.data[3].y[0] == 1
    (menu,) = fig.layout.updatemenus
    losses = next(b.args for b in menu.buttons if b.label == "quantised loss")
    assert losses[0]["z"][0] == [[0.11, 1.01], [0.2, 1.1], [4.1, 5.0]]
    assert losses[1]["coloraxis"]["cmax"] == 0.5
