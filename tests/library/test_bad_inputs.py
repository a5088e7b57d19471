"""Generated bad inputs: each is refused with an error of the library's own words, and nothing has changed afterwards.

`problem(rng)` makes one; run more of them with `python tests/library/test_bad_inputs.py 10000`.
"""

import collections
import copy
import inspect
import math
import random
import sys

import pytest
import torch

import quantized_training as qt
from quantized_training import Levels

FOLDER = qt.__path__[0]
OURS = (TypeError, ValueError, RuntimeError, FloatingPointError)
JUNK = [None, "psi", "0.1", "", [], (), {}, object(), Levels, len, b"1", 1j, torch.ones(2), torch.tensor([]), float]
NOT_FINITE = [math.nan, math.inf, -math.inf, torch.tensor(math.nan)]
B = Levels.binary()


def bad_number(rng, *, positive=False, negative=True, top=None, inf=False):
    """Something that is no number of the range: junk, NaN, a sign, a size."""
    kinds = [rng.choice([j for j in JUNK]), rng.choice(NOT_FINITE[:1] if inf else NOT_FINITE), True]
    if negative:
        kinds += [-rng.random() * 10 ** rng.randint(-9, 9), -1, -(10**30)]
    if positive:
        kinds += [0, 0.0, -0.0]
    if top is not None:
        kinds += [top + rng.random() + 1e-9]
    return rng.choice(kinds)


def junk(rng, *fits):
    return rng.choice([j for j in [*JUNK, *NOT_FINITE, -1, 3, 0.5] if not isinstance(j, fits)])


def bad_levels(rng):
    good = sorted({round(rng.uniform(-3, 3), 3) for _ in range(rng.randint(3, 6))})
    good.insert(rng.randrange(1, len(good)), rng.choice([*JUNK[:10], *NOT_FINITE, good[-1], True, good[0]]))
    worse = [good, good[::-1] if len(good) > 1 else [], [good[0]], rng.choice(JUNK[:9]), 3, -1.0, None, "ab", good * 2]
    return rng.choice(worse)


def schedule(rng):
    """A schedule that leaves (0, 1) at some index, for PSI of {-1, 1}."""
    return rng.choice(
        [
            qt.Cosine(rng.uniform(0.1, 0.9), rng.randint(1, 900)),
            qt.Linear(rng.uniform(0.01, 0.9)),
            qt.Geometric(rng.uniform(1, 9), rng.uniform(0.1, 0.99)),
            [rng.uniform(0.1, 0.9), rng.choice([0.0, -1.0, 2.0, math.nan, "x", None])].__getitem__,
            [0.5, 0.25, 0.125, rng.choice([-0.5, 0, 1.0])].__getitem__,
        ]
    )


CONSTRUCTORS = {
    "Levels": lambda rng: Levels(bad_levels(rng)),
    "integers": lambda rng: Levels.integers(rng.choice([1, 0, 17, 10**9, -3, 2.0, *JUNK, *NOT_FINITE])),
    "for_bits": lambda rng: Levels.for_bits(rng.choice([0, 17, -3, 2.5, True, *JUNK, *NOT_FINITE])),
    "scaled": lambda rng: B.scaled(bad_number(rng, positive=True)),
    "nearest": lambda rng: B.nearest(
        rng.choice([1.0, [0.5], None, torch.ones(2).int(), torch.ones(2) > 0, torch.ones(2) + 1j])
    ),
    "coarse levels": lambda rng: Levels((1.0, 1.0 + 10 ** -rng.uniform(4, 9))).nearest(
        torch.ones(2, dtype=torch.bfloat16)
    ),
    "ASkew": lambda rng: qt.ASkew(
        B,
        **rng.choice(
            [
                lambda: {"alpha": bad_number(rng, positive=True)},
                lambda: {"clip": bad_number(rng, positive=True)},
                lambda: {"epsilon": x if (x := bad_number(rng, positive=True, top=1)) is not None else "None"},
                lambda: {"epsilon": schedule(rng)},
                lambda: {"constraint": junk(rng, qt.Constraint)},
                lambda: {rng.choice(["merged", "allow_overshoot", "clip_velocity"]): junk(rng, bool)},
            ]
        )(),
    ),
    "SGDA": lambda rng: qt.SGDA(
        B,
        **rng.choice(
            [
                lambda: {"epsilon": rng.choice([lambda k: 0.5, bad_number(rng, positive=True, top=1)])},
                lambda: {"dual_lr": bad_number(rng, positive=True)},
                lambda: {"dual_max": bad_number(rng, positive=True, inf=True)},
            ]
        )(),
    ),
    "ProxQuant": lambda rng: qt.ProxQuant(
        B,
        **rng.choice(
            [
                lambda: {"strength": bad_number(rng)},
                lambda: {"strength": rng.choice([qt.Linear(-rng.random()), qt.Cosine(-rng.random(), 5)])},
                lambda: {"norm": rng.choice(["l3", "L1", *JUNK, 1, math.nan])},
                lambda: {"ensemble": junk(rng, bool)},
            ]
        )(),
    ),
    "BinaryConnect": lambda rng: qt.BinaryConnect(
        B,
        **rng.choice(
            [
                lambda: {"stochastic": junk(rng, bool)},
                lambda: {"seed": rng.choice([*JUNK, *NOT_FINITE, 0.5, 2**70, -(2**70)])},
                lambda: {"uniform": rng.choice([1.0, "x", torch.ones(2), [], B])},
            ]
        )(),
    ),
    "k-bit": lambda rng: qt.KBitStraightThrough(rng.choice([0, -1, 17, 10**9, 2.0, True, *JUNK, *NOT_FINITE])),
    "method's levels": lambda rng: rng.choice(
        [qt.ASkew, qt.SGDA, qt.ProxQuant, qt.BinaryConnect, qt.StraightThrough, qt.FullPrecision]
    )(rng.choice([*JUNK, (-1, 1), [-1, 1], 2, math.nan])),
    "schedule": lambda rng: rng.choice(
        [
            lambda: qt.Geometric(0.5, bad_number(rng, positive=True, top=1)),
            lambda: qt.Geometric(junk(rng, int, float, torch.Tensor), 0.5),
            lambda: qt.Cosine(0.5, bad_number(rng, positive=True)),
            lambda: qt.Cosine(junk(rng, int, float, torch.Tensor), 5),
            lambda: rng.choice([qt.Linear, qt.Constant, qt.Harmonic])(junk(rng, int, float, torch.Tensor)),
        ]
    )(),
    "BAMSProd": lambda rng: qt.BAMSProd(
        [torch.nn.Parameter(torch.ones(2))],
        **rng.choice(
            [
                lambda: {"lr": bad_number(rng)},
                lambda: {
                    "betas": rng.choice([0.9, (0.9,), (1.0, 0.9), (0.9, -0.1), ("a", 0.9), (0.9, math.nan), None, ()])
                },
                lambda: {"eps": bad_number(rng)},
                lambda: {"target": rng.choice([0, -1, "x", math.nan, math.inf])},
                lambda: {"least_error": bad_number(rng, positive=True, top=1)},
                lambda: {"box": bad_number(rng, positive=True, inf=True)},
                lambda: {rng.choice(["ensemble", "sqrt_decay"]): junk(rng, bool)},
            ]
        )(),
    ),
}

METHODS = {
    "ASkew": lambda: qt.ASkew(B, epsilon=qt.Geometric(0.5, 0.9)),
    "SGDA": lambda: qt.SGDA(B),
    "BinaryConnect": lambda: qt.BinaryConnect(B),
    "StraightThrough": lambda: qt.StraightThrough(B),
    "ProxQuant": lambda: qt.ProxQuant(B, 0.1),
}
BASES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
}


def trained(rng):
    """An optimizer of two quantised parameters and a bias after two steps, with gradients for the next."""
    draws = torch.Generator().manual_seed(rng.randrange(2**31))
    params = [torch.nn.Parameter(2 * torch.rand(n, generator=draws) - 1) for n in ((4,), (2, 3), (3,))]
    groups = [{"params": params[:2]}, {"params": params[2:], "quantize": False}]
    base, method = rng.choice(sorted(BASES)), rng.choice(sorted(METHODS))
    optimizer = qt.QuantizedOptimizer(BASES[base](groups), METHODS[method]())
    for _ in range(3):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draws)
        if _ < 2:
            optimizer.step()
    return optimizer, params, draws


def break_group(rng, optimizer):
    """Write something bad into a parameter group; returns how to take it back."""
    group = optimizer.param_groups[0]
    key, value = rng.choice(
        [
            ("lr", lambda: rng.choice([j for j in [*JUNK, *NOT_FINITE, -1.0, -1e-9, True]])),
            ("levels", lambda: junk(rng, Levels)),
            ("quantize", lambda: junk(rng, bool)),
            ("maximize", lambda: True),
        ]
    )
    before = group[key]
    group[key] = value()
    return lambda: group.__setitem__(key, before)


def break_state(rng, state):
    """A state_dict with one thing wrong."""
    state = copy.deepcopy(state)
    group, entries = rng.choice(state["param_groups"]), state["state"]
    named = [(i, k) for i in entries for k, v in entries[i].items() if isinstance(v, torch.Tensor) and v.ndim]
    choices = [
        lambda: state.pop(rng.choice(["state", "param_groups"])),
        lambda: state.update({rng.choice(["state", "param_groups"]): rng.choice([None, 3, "x", [1], [{}]])}),
        lambda: state["param_groups"].pop(),
        lambda: group.pop(rng.choice(["lr", "levels", "quantize", "method", "params"])),
        lambda: group.update(method=rng.choice(["Other", "FullPrecision", None, 3])),
        lambda: group.update(levels=rng.choice([(1.0,), (1.0, -1.0), None, "x", (math.nan, 1.0), 3])),
        lambda: group.update(lr=rng.choice([math.nan, -1.0, "x", None])),
        lambda: group.update(quantize=junk(rng, bool)),
        lambda: group["params"].append(7),
        lambda: [g.update({"method.t": rng.choice([-1, 0.5, "x", None, math.nan])}) for g in state["param_groups"]],
        lambda: [g.pop("method.t") for g in state["param_groups"]],
        lambda: entries.update({rng.choice([9, -1, "x"]): {"exp_avg": torch.ones(2)}}),
    ]
    if named:
        i, k = rng.choice(named)
        choices += [
            lambda: entries[i].update({k: torch.full_like(entries[i][k], math.nan)}),
            lambda: entries[i].update({k: torch.zeros(7, 7, 7)}),
        ]
    rng.choice(choices)()
    return state


def break_parameter(rng):
    bad = rng.choice(
        [
            lambda: torch.nn.Parameter(torch.tensor([1.0, math.nan])),
            lambda: torch.nn.Parameter(torch.tensor([math.inf, 1.0])),
            lambda: torch.nn.Parameter(torch.ones(2, dtype=torch.complex64)),
            lambda: torch.nn.Parameter(torch.ones(2, device="meta")),
            lambda: torch.nn.Parameter(torch.ones(2).int(), requires_grad=False),
            lambda: torch.nn.Parameter(torch.eye(3).to_sparse()),
        ]
    )
    return bad()


def problem(rng):
    """(name, act, what must not change or None): one bad input; `act()` should raise."""
    if rng.random() < 0.5:
        name = rng.choice(sorted(CONSTRUCTORS))
        seed = rng.randrange(2**62)
        return name, lambda: CONSTRUCTORS[name](random.Random(seed)), None
    optimizer, params, draws = trained(rng)
    kind = rng.choice(["group", "gradient", "state", "parameter", "base", "view", "written", "uniform", "huge"])
    if kind == "group":

        def step():
            back = break_group(rng, optimizer)
            try:
                optimizer.step()
            finally:
                back()

        return kind, step, optimizer
    if kind == "gradient":
        p = rng.choice(params)
        bad = rng.choice([math.nan, math.inf, -math.inf, "sparse"])
        if bad == "sparse":
            p.grad = torch.ones_like(p).to_sparse()
        else:
            p.grad.view(-1)[rng.randrange(p.numel())] = bad
        return kind, optimizer.step, optimizer
    if kind == "state":
        state = break_state(rng, optimizer.state_dict())
        return kind, lambda: optimizer.load_state_dict(state), optimizer
    if kind == "parameter":
        bad = break_parameter(rng)
        if rng.random() < 0.5:
            return kind, lambda: optimizer.add_param_group({"params": [bad]}), optimizer
        good = torch.nn.Parameter(torch.full((3,), 0.25))
        method = METHODS[rng.choice(sorted(METHODS))]()
        return kind, lambda: qt.QuantizedOptimizer(torch.optim.SGD([good, bad], lr=0.1), method), good
    if kind == "base":
        base = rng.choice([optimizer, *JUNK, torch.optim.LBFGS([params[0]]), torch.optim.SGD])
        if rng.random() < 0.5:
            return kind, lambda: qt.QuantizedOptimizer(base, METHODS["SGDA"]()), optimizer
        return kind, lambda: optimizer.switch(junk(rng, qt.Method)), optimizer
    if kind == "view":
        view, inside = (
            rng.choice(["quantized", "latent"]),
            rng.choice(["step", "adopt", "state", "load", "add", "copy", "again"]),
        )

        def act():
            state = optimizer.state_dict()
            with getattr(optimizer, view)():
                if inside == "again":
                    with optimizer.quantized():
                        pass
                {
                    "step": optimizer.step,
                    "adopt": optimizer.adopt,
                    "state": optimizer.state_dict,
                    "load": lambda: optimizer.load_state_dict(state),
                    "add": lambda: optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]}),
                    "copy": lambda: copy.deepcopy(optimizer),
                }[inside]()

        return kind, act, optimizer
    if kind == "written":
        view = rng.choice(["quantized", "latent"])

        def act():
            with getattr(optimizer, view)(), torch.no_grad():
                rng.choice(params[:2]).add_(1.0)

        return kind, act, optimizer
    if kind == "uniform":
        shape = rng.choice([(3,), (1,), (4, 4), ()])
        p = torch.nn.Parameter(torch.ones(5))
        method = qt.BinaryConnect(B, uniform=lambda w: rng.choice([torch.rand(shape), torch.ones(w.shape).int()]))
        return kind, lambda: qt.QuantizedOptimizer(torch.optim.SGD([p], lr=0.1), method), p
    huge = torch.nn.Parameter(torch.full((3,), 3e38))
    wrapped = qt.QuantizedOptimizer(torch.optim.SGD([huge], lr=1e38), qt.FullPrecision(B))
    huge.grad = torch.full((3,), -1e30)
    return kind, wrapped.step, wrapped


def everything(thing):
    """What must not change: of an optimizer all but the base's own state, whose first step may have been tried."""
    if isinstance(thing, torch.Tensor):
        return [thing.detach().clone()]
    if thing is None:
        return []
    params = [p for g in thing.param_groups for p in g["params"]]
    return [
        [p.detach().clone() for p in params],
        [None if p.grad is None else p.grad.to_dense().clone() for p in params],
        [{k: v.clone() for k, v in thing.state.get(p, {}).items()} for p in params],
        [[(k, v) for k, v in g.items() if k != "params"] for g in thing.param_groups],
        thing.method.state_dict(),
        type(thing.method),
    ]


def equal(a, b):
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7.25), b.nan_to_num(7.25))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a is b or (type(a) is type(b) and a == b)


def verdict(name, act, watched):
    """ "clear", "silent", "changed" or "unclear", and the words."""
    before = everything(watched)
    try:
        act()
    except BaseException as error:
        if not equal(everything(watched), before):
            return "changed", f"{name}: {error!r}"
        frames = inspect.getinnerframes(error.__traceback__)
        said = frames[-1].filename.startswith(FOLDER) and "raise" in "".join(frames[-1].code_context or [])
        said = said or "torch/optim/optimizer.py" in frames[-1].filename  # torch's own words about a state or a group
        return (
            "clear" if said and isinstance(error, OURS) else "unclear"
        ), f"{name}: {error!r} in {frames[-1].filename}"
    return "silent", name


def tally(seed, count):
    rng, found, words = random.Random(seed), collections.Counter(), []
    for _ in range(count):
        state = rng.getstate()
        kind, said = verdict(*problem(rng))
        found[kind] += 1
        if kind != "clear":
            words.append((kind, said))
        del state
    return found, words


def test_bad_inputs_are_refused_in_our_words_and_change_nothing():
    found, words = tally(16, 1200)
    assert found["silent"] == found["changed"] == 0, words
    assert found["unclear"] <= 12, words
    assert found["clear"] > 1000


@pytest.mark.parametrize(
    "act, kind",
    [
        (lambda: Levels((-1, 1)), "silent"),
        (lambda: Levels((-1, 1)).values.missing, "unclear"),
        (lambda: Levels((1, -1)), "clear"),
    ],
)
def test_the_verdicts_can_be_told_apart(act, kind):
    assert verdict("", act, None)[0] == kind


if __name__ == "__main__":
    found, words = tally(int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1]))
    print(dict(found))
    for line, n in collections.Counter(words).most_common(60):
        print(n, *line)
