"""Task I: the data follow the stated law, the ensemble is what single runs are, the floors are what solvers find."""

import itertools
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import softplus

from study.claims import printed
from study.speed import bench
from study.statistics import share
from study.tasks import logistic
from study.tasks.ensembles import Trajectory, train


@pytest.fixture(scope="module")
def small():
    return logistic.draw(6, n=600, batch=100, epochs=4)


@pytest.fixture(scope="module")
def small_shared():
    return logistic.draw(6, shared=True, n=600, batch=100, epochs=4)


@pytest.mark.parametrize("name", logistic.METHODS)
@pytest.mark.parametrize("which", ["small", "small_shared"])
def test_each_seed_of_an_ensemble_is_its_single_run_in_an_ordinary_torch_loop(name, which, request):
    ensemble = request.getfixturevalue(which)
    together = train(logistic.METHODS[name], ensemble, record=False, chunk=4)
    for i in range(len(ensemble.seeds)):
        alone = bench.train_one(name, ensemble[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_the_whole_trajectory_of_a_seed_does_not_depend_on_its_company(small):
    make = logistic.METHODS["BinaryConnect"]
    together, alone = train(make, small), train(make, small[3:4])
    for field in ("latent", "gradient"):
        torch.testing.assert_close(getattr(together, field)[:, 3:4], getattr(alone, field), rtol=0, atol=1e-12)
    assert together.latent.shape == (25, 6, 10)
    torch.testing.assert_close(together.latent[0], small.initial, rtol=0, atol=0)


def test_flips_are_the_share_of_roundings_that_change():
    latent = torch.tensor([[[0.2, -1.0]], [[-0.1, -0.5]], [[-2.0, -0.1]], [[3.0, 0.1]]])  # 3 steps, 1 seed, 2 weights
    assert Trajectory(latent, latent[1:]).flips().tolist() == [[0.5], [0.0], [1.0]]


def test_a_seed_is_drawn_alike_in_every_ensemble():
    many, one = (
        logistic.draw(range(3, 7), n=50, batch=10, epochs=2),
        logistic.draw(range(5, 6), n=50, batch=10, epochs=2),
    )
    for field in ("z", "w_star", "initial", "order", "uniform"):
        assert torch.equal(getattr(many, field)[2:3], getattr(one, field)), field


def test_labels_follow_the_logistic_law():
    e = logistic.draw(40, epochs=1)
    margin = torch.einsum("snd,sd->sn", e.z, e.w_star).flatten()
    # y x'w* has density ratio p(m)/p(-m) = e^m, so P(m > 0 | |m|) = 1/(1 + exp(-|m|))
    for low, high in ((0, 0.5), (0.5, 1), (1, 2), (2, 4)):
        inside = (margin.abs() >= low) & (margin.abs() < high)
        expected = torch.sigmoid(margin.abs()[inside]).mean().item()
        found = (margin[inside] > 0).double().mean().item()
        assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / int(inside.sum()))


def test_features_are_uniform_and_signs_even():
    e = logistic.draw(40, epochs=1)
    assert e.z.abs().max() <= 1
    assert abs(e.z.square().mean().item() - 1 / 3) < 0.002  # the variance of U(-1, 1)
    assert set(e.w_star.unique().tolist()) == {-1.0, 1.0}
    assert abs(e.w_star.mean().item()) < 0.2
    assert e.initial.abs().max() <= 10**-0.5
    assert e.initial.abs().max() > 0.9 * 10**-0.5


def test_every_epoch_visits_every_sample_once(small):
    rows, seen = [], []
    for k, (batch,) in enumerate(small.batches()):
        rows.append(batch.clone())
        if (k + 1) % 6 == 0:
            epoch = torch.cat(rows, dim=1)
            seen.append(epoch)
            rows = []
    assert len(seen) == 4
    for epoch in seen:
        assert torch.equal(epoch.sort(dim=1).values, small.z.sort(dim=1).values)
    assert not torch.equal(seen[0], seen[1])


def test_loss_and_gradient_against_autograd(small):
    w = small.initial.clone().requires_grad_()
    naive = torch.stack([softplus(-(small.z[s] @ w[s])).mean() for s in range(6)])
    torch.testing.assert_close(logistic.loss(w.detach(), small.z), naive.detach())
    naive.sum().backward()
    torch.testing.assert_close(logistic.gradient(w.detach(), small.z), w.grad)


def test_the_unconstrained_minimum_is_scikit_learns(small):
    found = logistic.empirical_minimum(small)
    for s in range(3):
        x = torch.cat([small.z[s], -small.z[s]]).numpy()  # z with label 1 and -z with label 0: the same loss twice
        y = [1] * 600 + [0] * 600
        model = LogisticRegression(C=float("inf"), fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
        torch.testing.assert_close(found[s], torch.tensor(model.coef_[0]), rtol=0, atol=1e-4)


def test_the_best_sign_vector_is_found_by_looking_at_each():
    e = logistic.draw(4, n=200, d=5, batch=100, epochs=1)
    value, vector = logistic.best_sign_vector(e)
    signs = [torch.tensor(v, dtype=torch.float64) for v in itertools.product((-1.0, 1.0), repeat=5)]
    for s in range(4):
        losses = {tuple(v.tolist()): softplus(-(e.z[s] @ v)).mean().item() for v in signs}
        assert len(losses) == 32
        best = min(losses, key=losses.get)
        assert tuple(vector[s].tolist()) == best
        assert value[s].item() == pytest.approx(losses[best], abs=1e-12)


def test_distances():
    w = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    assert logistic.distance(w, torch.zeros(1, 2)).item() == pytest.approx(5)
    assert logistic.direction_distance(w, 7 * w).item() == pytest.approx(0, abs=1e-12)
    assert logistic.direction_distance(w, -w).item() == pytest.approx(2)


@pytest.mark.parametrize("batch", [0, 51])
def test_a_batch_that_does_not_fit_is_refused(batch):
    with pytest.raises(ValueError, match="allowed is 1 to n=50"):
        logistic.draw(1, n=50, batch=batch)


def test_askew_is_sgd_while_epsilon_is_one_and_never_flips_a_sign_afterwards():
    """The chapter's two answers, on other seeds than the page's."""
    e = logistic.draw(range(1000, 1032))
    sgd = train(logistic.METHODS["Full precision"], e)
    ends = []
    for name in ("ASkewSGD", "Modified ASkewSGD"):
        run = train(logistic.METHODS[name], e)
        assert torch.equal(run.latent[:7], sgd.latent[:7])
        signs = run.latent[6:] >= 0
        assert not (signs[1:] != signs[:-1]).any()
        assert not torch.equal(run.latent[-1], sgd.latent[-1])
        ends.append(signs[-1])
    assert torch.equal(*ends)


def test_four_of_the_losses_labelled_one_bit_belong_to_no_vector_of_signs():
    """On the whole set, whatever was trained and how; the 64 seeds of the claim, the first eight here."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=10)), dtype=torch.float64)
    wanted = torch.tensor(
        [printed(1)[m] for m in ("ASkewSGD", "Modified ASkewSGD", "SGDA (ε = 0.01)", "SGDA (ε = 0.5)")]
    )
    for z in logistic.draw(8).z:
        reached = softplus(-(z @ signs.T)).mean(0)
        assert (reached[:, None] - wanted).abs().min() > 0.01


def test_straight_through_reaches_the_printed_numbers_and_full_precision_does_not():
    e = logistic.draw(range(1000, 1064))
    w = train(logistic.METHODS["Straight-through"], e, record=False)
    low, high = torch.quantile(logistic.loss(w, e.z), torch.tensor([0.025, 0.975], dtype=w.dtype)).tolist()
    assert low < 0.6022 < high
    low, high = torch.quantile(
        logistic.direction_distance(w, e.w_star), torch.tensor([0.025, 0.975], dtype=w.dtype)
    ).tolist()
    assert low < 0.7597 < high
    full = train(logistic.METHODS["Full precision"], e, record=False)
    assert logistic.loss(full, e.z).max() < 0.5172  # below the lowest number of Table 1
    assert share((full.sign() == e.w_star).all(-1))[0] == 1.0
