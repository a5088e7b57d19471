"""The trainer of the landing page as a still picture and a table, for readers without scripts and for notebooks.

In the book, book/_static/trainer takes its place and goes on from the same state; the numbers here are the package's own.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods import BINARY
from . import moons
from .ensembles import train

#: On this seed full precision is the best of all methods by its latent weights and the worst when they are rounded, and
#: BinaryConnect rounds to the best of all networks. tests/study/tasks/test_still.py recomputes it; Task II has the means of 512 seeds.
SEED = 175
PAIR = ("Full precision", "BinaryConnect (deterministic)")

WIDTH, HEIGHT = 168, 116  # of one panel
GRID = "display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px"  # four beside each other, or two
X, Y = (-1.6, 2.6), (-1.2, 1.7)
CLASSES = {-1: "#128c7e", 1: "#8a63d2"}  # at least 3 to 1 on the light and on the dark page


@dataclass(frozen=True)
class Still:
    """A page's trainer before its script has run. full: the playground, with all controls and its state in the address."""

    full: bool = False

    def _repr_html_(self) -> str:
        attributes = 'class="trainer" role="region" aria-label="Two methods, trained in this page"'
        attributes += " data-full" if self.full else f' data-state="seed={SEED}" data-playground="playground.html"'
        return f"<div {attributes}>{_still()}</div>"


def _at(x: float, y: float) -> str:
    return f"{(x - X[0]) / (X[1] - X[0]) * WIDTH:.1f} {(Y[1] - y) / (Y[1] - Y[0]) * HEIGHT:.1f}"


def _panel(w: Tensor, x: Tensor, y: Tensor, words: tuple[str, str, str]) -> str:
    """Some of the points, the network's boundary, and what it is."""
    dots = "".join(
        f'<path d="{"".join(f"M{_at(*p)}h0" for p in x[y == label][:60].tolist())}" stroke="{colour}" '
        f'stroke-width="{3 if label > 0 else 2}" stroke-linecap="round"/>'
        for label, colour in CLASSES.items()
    )
    rays = "".join(f"M{_at(0, 0)}L{_at(4 * math.cos(a), 4 * math.sin(a))}" for a in moons.boundary(w).tolist())
    text = "".join(f'<text y="{12 + 16 * i}">{html.escape(word)}</text>' for i, word in enumerate(words))
    frame = f'<svg y="52" width="{WIDTH}" height="{HEIGHT}">{dots}<path d="{rays}" stroke="currentColor" stroke-width="2" fill="none"/></svg>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 54}" fill="currentColor" font-size="13">{text}{frame}</svg>'


def _still() -> str:
    task = moons.draw(range(SEED, SEED + 1))
    x, y = task.x[0], task.y[0]
    trained = train({name: moons.METHODS[name] for name in PAIR}, task, record=False)
    columns = [
        (name, kind, w) for name in PAIR for kind, w in _ways(trained[name][0]).items()
    ]  # four networks, two of each method
    losses = [moons.loss(w, x, y).item() for _, _, w in columns]
    panels = "".join(
        _panel(w, x, y, (name, kind, f"loss {loss:.3f}")) for (name, kind, w), loss in zip(columns, losses, strict=True)
    )
    words = (
        f"Two moons after 500 steps, with the boundary of four networks. {PAIR[0]}: loss {losses[0]:.3f} as trained, {losses[1]:.3f} "
        f"rounded to −1 and +1. {PAIR[1]}: loss {losses[2]:.3f} as trained, {losses[3]:.3f} rounded."
    )
    head = "".join(f'<th scope="col">{name}, {kind}</th>' for name, kind, _ in columns)
    rows = [_row("loss", [f"{value:.6f}" for value in losses])]
    names = [f"W{i}{j}" for i in (1, 2, 3) for j in (1, 2)] + [f"a{i}" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        rows.append(_row(name, [f"{w[i]:.6f}" if kind == "as trained" else f"{w[i]:.0f}" for _, kind, w in columns]))
    table = f'<table class="data"><thead><tr><th scope="col">step 500</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f'<figure><div class="trainer-still" role="img" aria-label="{words}" style="{GRID}">{panels}</div>'
        f"<figcaption>{words} A still picture, the end of one run: where scripts run, it plays.</figcaption></figure>"
        f'<details><summary>The numbers</summary><div class="table-wrap" tabindex="0" role="region" aria-label="The numbers">{table}</div></details>'
    )


def _ways(w: Tensor) -> dict[str, Tensor]:
    return {"as trained": w, "rounded": BINARY.nearest(w)}


def _row(head: str, values: list[str]) -> str:
    cells = "".join(f"<td>{value.replace('-', '−')}</td>" for value in values)
    return f'<tr><th scope="row">{head}</th>{cells}</tr>'


def places(seed: int = SEED) -> dict[str, torch.Tensor]:
    """Every method of Task II on one seed: its loss by latent and by rounded weights, (2,)."""
    task = moons.draw(range(seed, seed + 1))
    trained = train(moons.METHODS, task, record=False)
    return {
        name: torch.stack([moons.loss(v, task.x[0], task.y[0]) for v in _ways(w[0]).values()])
        for name, w in trained.items()
    }
