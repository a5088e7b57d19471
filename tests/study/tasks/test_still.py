"""What the landing page and the page `playground` say of single runs, recomputed."""

from __future__ import annotations

import re

import pytest
import torch

from quantized_training import PHI, PSI, SGDA, ASkew, Geometric, QuantizedOptimizer
from study.methods import BINARY
from study.tasks import moons, still
from study.tasks.ensembles import train

STARTS = {
    0: 0.450,
    5: 0.431,
    10: 0.449,
    15: 0.447,
    20: 0.446,
}  # epochs before epsilon falls -> the page's mean rounded loss


def test_the_seed_of_the_landing_page_turns_the_ranking_round():
    found = still.places()
    full, connect = (found.pop(name) for name in still.PAIR)
    others = torch.stack(list(found.values()))
    assert len(others) == 10
    assert full[0] < others[:, 0].min() and full[1] > others[:, 1].max()
    assert connect[0] > full[0] + 0.1 and full[1] > connect[1] + 0.1
    task = moons.draw(range(still.SEED, still.SEED + 1))
    assert connect[1].item() == pytest.approx(moons.best_of_all(3, task)[0].item())


def test_the_still_picture_shows_the_same_numbers():
    text = still.Still()._repr_html_()
    found = still.places()
    for name in still.PAIR:
        latent, rounded = found[name].tolist()
        assert f"{name}: loss {latent:.3f} as trained, {rounded:.3f} rounded" in text
        assert f"<td>{latent:.6f}</td><td>{rounded:.6f}</td>" in text
    assert text.count("<tr>") == 11 and text.count("M") > 4 * 120
    assert re.search(r"data-full", still.Still(full=True)._repr_html_()) and "data-full" not in text


def askew(start: int) -> ASkew:
    epsilon = Geometric(PSI.largest_epsilon(BINARY), 0.88, start)
    return ASkew(BINARY, alpha=0.5, epsilon=epsilon, merged=True, allow_overshoot=True)


def last_change(latent: torch.Tensor) -> torch.Tensor:
    """The last step at which a rounding changed, (S,), from latent weights (T + 1, S, d)."""
    rounded = BINARY.nearest(latent)
    changed = (rounded[1:] != rounded[:-1]).any(-1)
    return (changed * torch.arange(1, len(latent)).unsqueeze(1)).amax(0)


def test_the_freeze_and_late_annealing():
    one = moons.draw(range(still.SEED, still.SEED + 1))
    steps = {start: last_change(train(lambda e, s=start: askew(s), one).latent).item() for start in (0, 10)}
    assert steps == {0: 8, 10: 184}
    many = moons.draw(40)
    for start, mean in STARTS.items():
        latent = train(lambda e, s=start: askew(s), many).latent
        assert last_change(latent).max() <= 20 * start + 60 or start == 20  # the run ends 100 steps later
        assert moons.loss(BINARY.nearest(latent[-1]), many.x, many.y).mean().item() == pytest.approx(mean, abs=1e-3)


def one_weight(method, start: float, slope: float, steps: int = 200):
    """A weight on the loss -slope * w, or at the midpoint of a bowl where slope is 0."""
    method.t = 0
    w = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = QuantizedOptimizer(torch.optim.SGD([w], lr=0.1), method)
    for _ in range(steps):
        w.grad = w.detach().clone() if slope == 0 else torch.full_like(w, -slope)
        optimizer.step()
        method.anneal()
    return w.item(), optimizer.state[w]


def furthest(method, start: float) -> float:
    """The largest size of a weight on a slope."""
    return max(abs(one_weight(method, start, -0.3, steps=k)[0]) for k in (0, 199, 200))


def falling(constraint, alpha, clip, share=0.9):
    epsilon = Geometric(share * constraint.largest_epsilon(BINARY), 0.97)
    return ASkew(BINARY, constraint, alpha, clip, epsilon, merged=True, allow_overshoot=True)


def test_the_midpoint():
    w, state = one_weight(SGDA(BINARY, dual_lr=0.05, dual_max=5.0), 0.0, 0)
    assert w == 0 and state["dual"].max() == 5
    assert abs(one_weight(SGDA(BINARY, dual_lr=0.05, dual_max=5.0), 0.05, 0)[0]) > 0.2
    assert one_weight(falling(PSI, 0.5, 1.0), 0.0, 0)[0] > 0.9


def test_alpha_times_step_size_above_two():
    """Every start is thrown far at alpha 30 without a clip, none at 16 or with a clip of 1."""
    for start in (-1.5, -0.7, 0.4, 1.8):
        ends = {(a, c): furthest(falling(PHI, a, c, share=0.1), start) for a, c in ((16, 1e3), (30, 1e3), (30, 1.0))}
        assert ends[30, 1e3] > 40 and ends[30, 1.0] < 2 and ends[16, 1e3] < 2
    assert one_weight(falling(PHI, 16, 1e3, share=0.1), -1.5, -0.3)[0] == pytest.approx(-1, abs=0.05)


def test_the_dual_step_that_diverges():
    task = moons.draw(range(still.SEED, still.SEED + 1))
    best = moons.best_of_all(3, task)[0]

    def end(rate, largest):
        run = train(lambda e: SGDA(BINARY, dual_lr=rate, dual_max=largest), task)
        w = run.latent[-1]
        return moons.loss(w, task.x, task.y), moons.loss(BINARY.nearest(w), task.x, task.y), run.latent.abs().max()

    assert end(0.01, 1.0)[1] == pytest.approx(best)
    loss, _, largest = end(0.3, 10.0)
    assert 10 < loss < 20 and 25 < largest < 35
    assert end(0.3, 1.0)[0].item() == pytest.approx(0.484, abs=0.01)
