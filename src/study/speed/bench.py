"""How much cheaper a seed is in an ensemble, and what a step costs: `make bench`, or python -m study.speed.bench.

First it trains Tasks I and II twice in one process: all seeds in one tensor program, and seed by seed in an ordinary torch loop
(torch's layers, autograd, the same optimizer, the same batches). Prints the ratio of the times per seed, and the largest
difference between the trained weights of the two.

Then it times one step of each method on the weights of a ResNet-18, right after one of torch.optim.SGD, round by round:
eager (`QuantizedOptimizer.step`), compiled (the method's functions and SGD's update in one torch.compile graph, against
SGD's update compiled; beside it the same with the optimizer's check of the gradients), and SGDA against Cooper; and a step of
BAMSProd and Bop after one of torch's AMSGrad. Printed are ratios of times.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch.nn.functional import softplus

from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    FullPrecision,
    Method,
    ProxQuant,
    StraightThrough,
)
from quantized_training.adaptive import BAMSProd
from quantized_training.optimizer import QuantizedOptimizer

from ..methods import BINARY
from ..tasks import logistic, moons
from ..tasks.arguments import integer_from
from ..tasks.bop import Bop
from ..tasks.ensembles import Ensemble, train
from ..theory.lagrangian import pieces
from ..vision.networks import resnet18

TASKS = {"I": logistic, "II": moons}


def plain_model(ensemble: Ensemble) -> tuple[torch.nn.Module, Callable[..., torch.Tensor]]:
    """Task I's or II's network of one seed from torch's layers, and its loss on a batch."""
    w = ensemble.initial[0]
    if isinstance(ensemble, logistic.Ensemble):
        model = torch.nn.Linear(len(w), 1, bias=False, dtype=w.dtype)
        values = [w[None]]

        def loss(z):
            return softplus(-model(z[0])).mean()
    else:
        hidden = len(w) // 3
        first, last = (torch.nn.Linear(a, b, bias=False, dtype=w.dtype) for a, b in ((2, hidden), (hidden, 1)))
        model = torch.nn.Sequential(first, torch.nn.ReLU(), last)
        values = [w[: 2 * hidden].view(hidden, 2), w[None, 2 * hidden :]]

        def loss(x, y):
            return softplus(-y[0] * model(x[0]).squeeze(1)).mean()

    with torch.no_grad():
        for parameter, value in zip(model.parameters(), values, strict=True):
            parameter.copy_(value)
    return model, loss


def train_one(name: str, ensemble: Ensemble) -> torch.Tensor:
    """One seed in the loop that anybody would write; returns the latent weights, (1, d)."""
    model, loss = plain_model(ensemble)
    method = _task(ensemble).METHODS[name](ensemble)
    if name == "BinaryConnect" and not comparable(name, ensemble):
        method = BinaryConnect(BINARY)  # draws for each layer by itself
    optimizer = QuantizedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), method)
    for k, batch in enumerate(ensemble.batches()):
        optimizer.zero_grad()
        loss(*batch).backward()
        optimizer.step()
        if (k + 1) % ensemble.per_epoch == 0:
            method.anneal()
    with optimizer.latent():
        return torch.cat([p.detach().flatten() for p in model.parameters()])[None]


def _task(ensemble: Ensemble):
    return logistic if isinstance(ensemble, logistic.Ensemble) else moons


def comparable(name: str, ensemble: Ensemble) -> bool:
    """Whether the loop must end at the same weights: in Task II not where a method treats two layers otherwise than one
    vector, nor where rounding errors grow (with alpha 4 ASkewSGD is chaotic)."""
    other = ("BinaryConnect", "ProxQuant (L2)", "ASkewSGD", "Modified ASkewSGD")
    return isinstance(ensemble, logistic.Ensemble) or name not in other


def compare(name: str, ensemble: Ensemble, singles: int, repeats: int) -> tuple[list[float], float]:
    """Ratios of time per seed (loop / ensemble), one per repeat, and the largest difference between the weights."""
    make = _task(ensemble).METHODS[name]
    ratios, difference = [], 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        together = train(make, ensemble, record=False)
        middle = time.perf_counter()
        alone = [train_one(name, ensemble[i : i + 1]) for i in range(singles)]
        end = time.perf_counter()
        ratios.append((end - middle) / singles / ((middle - start) / len(ensemble.seeds)))
        difference = max(difference, (torch.cat(alone) - together[:singles]).abs().max().item())
    return ratios, difference if comparable(name, ensemble) else math.nan


LR = 1e-4
STEPS: dict[str, Callable[[], Method]] = {  # with the methods' own defaults, and an epsilon that pushes
    "Full precision": lambda: FullPrecision(BINARY),
    "ASkewSGD, psi": lambda: ASkew(BINARY, PSI, epsilon=0.1),
    "ASkewSGD, phi": lambda: ASkew(BINARY, PHI, epsilon=0.1),
    "SGDA": lambda: SGDA(BINARY),
    "ProxQuant": lambda: ProxQuant(BINARY, 1.0),
    "BinaryConnect, nearest": lambda: BinaryConnect(BINARY, stochastic=False),
    "Straight-through": lambda: StraightThrough(BINARY),
    "BinaryConnect, stochastic": lambda: BinaryConnect(BINARY),
}


def numbers(method: Method) -> int:
    """How many numbers per weight a step must read or write at least: weight and gradient in and weight out, as SGD; the
    rounded weight out, where there is one; what else the method keeps of a weight in and out."""
    return 3 + (not method.forward_is_latent) + 2 * sum(map(len, first_state(method, torch.zeros(1)).values()))


def first_state(method: Method, w: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a method keeps of weights, as it is before its first step."""
    state: dict[str, torch.Tensor] = {}
    method.descent(torch.zeros_like(w), w, method.levels, state)
    return {name: torch.zeros_like(t) for name, t in state.items()}


def weights(width: int) -> list[torch.nn.Parameter]:
    """Parameters of a ResNet-18's shapes in every region of the constraints of {-1, +1}, with gradients."""
    rng = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = [p.shape for p in resnet18(width=width).parameters()]
    parameters = [torch.nn.Parameter(2.6 * torch.rand(s, generator=rng) - 1.3) for s in shapes]
    for p in parameters:
        p.grad = 0.1 * torch.randn(p.shape, generator=rng)
    return parameters


def milliseconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def compiled_step(method: Method | None, parameters: list, checked: bool = False) -> Callable[[], None]:
    """SGD's update (method None) or a method's, after the check of the gradients if asked for, as compiled functions."""
    grads = [p.grad for p in parameters]
    latents = [p if not method or method.forward_is_latent else p.detach().clone() for p in parameters]
    states = [first_state(method, p.detach()) if method else {} for p in parameters]

    def update(parameters: list, latents: list, grads: list, states: list) -> None:
        for p, w, g, state in zip(parameters, latents, grads, states, strict=True):
            if method is None:
                p.add_(g, alpha=-LR)
                continue
            new = method.after_step(w - LR * method.descent(g, w, BINARY, state), BINARY, state, LR)
            for target, value in method.late_changes(w, BINARY, state):
                target.copy_(value)
            w.copy_(new)
            if not method.forward_is_latent:
                p.copy_(method.forward_point(new, BINARY, state))

    def total(grads: list) -> torch.Tensor:
        return torch.stack([g.sum() for g in grads]).sum()

    compiled, check = torch.compile(update, fullgraph=True), torch.compile(total, fullgraph=True)

    @torch.no_grad()
    def step() -> None:
        if checked and not check(grads).isfinite():
            raise FloatingPointError("a gradient is NaN or infinite")
        compiled(parameters, latents, grads, states)

    return step


class GivenGradient(torch.autograd.Function):
    """A loss whose gradient is given, so that neither side of the comparison with Cooper pays for one."""

    @staticmethod
    def forward(ctx, grads, *parameters):
        ctx.grads = grads
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx, upstream):
        return None, *ctx.grads


def cooper_step(method: SGDA, parameters: list) -> Callable[[], object]:
    """One step of Cooper's simultaneous gradient descent ascent on the same constraints; ImportError without Cooper."""
    import cooper

    grads = [p.grad for p in parameters]

    class Pieces(cooper.ConstrainedMinimizationProblem):
        def __init__(self):
            super().__init__()
            for i, p in enumerate(parameters):
                multiplier = cooper.multipliers.DenseMultiplier(num_constraints=3 * p.numel())
                setattr(self, f"c{i}", cooper.Constraint(cooper.ConstraintType.INEQUALITY, multiplier=multiplier))

        def compute_cmp_state(self):
            observed = {}
            for i, p in enumerate(parameters):
                violation = -pieces(p, BINARY, method.epsilon).flatten()
                observed[getattr(self, f"c{i}")] = cooper.ConstraintState(violation=violation)
            return cooper.CMPState(loss=GivenGradient.apply(grads, *parameters), observed_constraints=observed)

    problem = Pieces()
    optimizer = cooper.optim.SimultaneousOptimizer(
        cmp=problem,
        primal_optimizers=torch.optim.SGD(parameters, lr=LR),
        dual_optimizers=torch.optim.SGD(problem.dual_parameters(), lr=method.dual_lr, maximize=True),
    )
    return optimizer.roll


def ratios(step: Callable, other: Callable, repeats: int, warm_up: int = 2) -> tuple[list[float], float, float]:
    """Times of `step` / times of `other` in turns, sorted, and the fastest time of each in ms."""
    for _ in range(warm_up):
        step(), other()
    pairs = [(milliseconds(step), milliseconds(other)) for _ in range(repeats)]
    return sorted(a / b for a, b in pairs), min(a for a, _ in pairs), min(b for _, b in pairs)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):5.1f}x ({values[0]:.1f}-{values[-1]:.1f})"


def compare_steps(names: list[str], width: int, repeats: int, compile: bool) -> None:
    """Print the table of steps."""
    size = sum(p.numel() for p in weights(width))
    a, b, out = (torch.rand(size) for _ in range(3))
    add = min(milliseconds(lambda: torch.add(a, b, out=out)) for _ in range(repeats + 3))
    bandwidth = 12 * size / add / 1e6
    print(
        f"\nOne step on {size:,} float32 weights (ResNet-18), levels {{-1, +1}}; torch.add moves {bandwidth:.0f} GB/s here"
    )
    print(
        "time / SGD's, median (range) of interleaved rounds; ratio of the fastest; bytes per weight; share of bandwidth"
    )
    if compile and not shutil.which("g++") and not shutil.which("clang++"):
        print("no C++ compiler is found (g++ or clang++): the compiled rows are left out")
        compile = False

    def line(name: str, mode: str, result: tuple, note: str = "") -> None:
        values, mine, its = result
        count = numbers(STEPS[name]())
        share = 4 * count * size / mine / 1e6 / bandwidth
        print(
            f"  {name:26s} {mode:9s} {spread(values):22s} {mine / its:5.1f}x  {4 * count:3d} B  {share:4.0%}  {note}",
            flush=True,
        )

    for name in names:
        make = STEPS[name]
        sgd = torch.optim.SGD(weights(width), lr=LR).step
        step = QuantizedOptimizer(torch.optim.SGD(weights(width), lr=LR), make()).step
        line(name, "eager", ratios(step, sgd, repeats))
        if not compile or name == "BinaryConnect, stochastic":  # its random numbers come from a generator of its own
            continue
        torch.compiler.reset()
        sgd, step = compiled_step(None, weights(width)), compiled_step(make(), weights(width))
        sgd()
        seconds = milliseconds(step) / 1e3
        result = ratios(step, sgd, repeats)
        with_check = ratios(compiled_step(make(), weights(width), checked=True), sgd, repeats)[0]
        note = f"with check {spread(with_check).strip()}, compiled in {seconds:.0f} s"
        line(name, "compiled", result, note)


def small_tensors(names: list[str], tensors: int, repeats: int) -> None:
    """Print the steps on many small tensors."""
    print(f"\nOne step on {tensors:,} tensors of 10 weights: time / SGD's, median (range)")

    def made() -> torch.optim.SGD:
        rng = torch.Generator().manual_seed(0)
        parameters = [torch.nn.Parameter(2.6 * torch.rand(10, generator=rng) - 1.3) for _ in range(tensors)]
        for p in parameters:
            p.grad = 0.1 * torch.randn(10, generator=rng)
        return torch.optim.SGD(parameters, lr=LR)

    for name in names:
        values = ratios(QuantizedOptimizer(made(), STEPS[name]()).step, made().step, repeats)[0]
        print(f"  {name:26s} {spread(values)}", flush=True)


def compare_cooper(width: int, repeats: int) -> None:
    """Print Cooper's step against SGDA's, after checking that both go the same way."""
    method = SGDA(BINARY, dual_max=1e6)
    theirs, ours = weights(width), weights(width)
    try:
        peer = cooper_step(method, theirs)
    except ImportError:
        print("Cooper is not installed (pip install cooper-optim): SGDA's row against it is left out")
        return
    step = QuantizedOptimizer(torch.optim.SGD(ours, lr=LR), method).step
    for _ in range(3):
        peer(), step()
    apart = max((a - b).abs().max().item() for a, b in zip(theirs, ours, strict=True))
    values, mine, its = ratios(peer, step, repeats, 0)
    print(
        f"Cooper's step / SGDA's step, eager: {spread(values)}, of the fastest {mine / its:.1f}x; max |dw| after 3 steps {apart:.0e}"
    )


def adaptive_ratios(width: int, repeats: int) -> dict[str, list[float]]:
    """Times of a step of the optimizers of `adaptive` / times of torch's AMSGrad, sorted, on the same weights."""
    found = {}
    for name, make in {"BAMSProd": BAMSProd, "Bop": Bop}.items():
        amsgrad = torch.optim.Adam(weights(width), foreach=True, amsgrad=True)
        found[name] = ratios(make(weights(width)).step, amsgrad.step, repeats)[0]
    return found


def compare_adaptive(width: int, repeats: int) -> None:
    """Print them."""
    for name, values in adaptive_ratios(width, repeats).items():
        print(f"{name}'s step / the step of torch.optim.Adam(foreach=True, amsgrad=True): {spread(values)}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m study.speed.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=integer_from(1), default=256, help="seeds in the ensemble (default 256)")
    parser.add_argument("--singles", type=integer_from(1), default=8, help="seeds timed one by one (default 8)")
    parser.add_argument("--repeats", type=integer_from(1), default=3, help="how often each pair is timed (default 3)")
    parser.add_argument(
        "--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="which tasks (default both)"
    )
    parser.add_argument("--methods", nargs="+", default=list(logistic.METHODS), choices=list(logistic.METHODS), metavar="METHOD",
                        help="which methods (default all)")  # fmt: skip
    parser.add_argument(
        "--threads", type=integer_from(1), help="torch threads for both sides (default: torch's own choice)"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32",
                        help="precision of both sides (default float32, torch's own; the book computes in float64)")  # fmt: skip
    parser.add_argument("--only", choices=("seeds", "steps"), help="one of the two parts (default both)")
    parser.add_argument("--rounds", type=integer_from(1), default=15, help="rounds of the steps' timings (default 15)")
    parser.add_argument(
        "--width",
        type=integer_from(1),
        default=64,
        help="width of the ResNet-18 whose weights are stepped (default 64)",
    )
    parser.add_argument(
        "--tensors", type=integer_from(1), default=10_000, help="how many small tensors are stepped (default 10,000)"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled steps out")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS), metavar="METHOD",
                        help="which methods' steps (default all)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.singles > args.seeds:
        parser.error(f"--singles {args.singles}: allowed is 1 to --seeds {args.seeds}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.only != "steps":
        compare_seeds(args)
    if args.only != "seeds":
        warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
        warnings.filterwarnings("ignore", message=".* of one dimension are quantised")  # all weights are, on purpose
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, no GPU")
        compare_steps(args.steps, args.width, args.rounds, not args.no_compile)
        small_tensors(args.steps, args.tensors, args.rounds)
        compare_cooper(args.width, args.rounds)
        compare_adaptive(args.width, args.rounds)


def compare_seeds(args: argparse.Namespace) -> None:
    for task in args.tasks:
        print(
            f"Task {task}, {args.seeds} seeds, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.dtype}, no GPU"
        )
        print(
            "time per seed, ordinary loop / ensemble: median (range) over the repeats; largest difference of the weights"
        )
        for title, shared in (
            ("one data set and batch order for all seeds", True),
            ("own data set and batches", False),
        ):
            ensemble = TASKS[task].draw(args.seeds, shared=shared).to(getattr(torch, args.dtype))
            compare("Full precision", ensemble, 1, 1)  # warm-up
            print(f"\n{title}")
            for name in args.methods:
                ratios, difference = compare(name, ensemble, args.singles, args.repeats)
                ratios.sort()
                apart = f"max |dw| {difference:.1e}" if math.isfinite(difference) else "weights not comparable"
                print(
                    f"  {name:30s} {ratios[len(ratios) // 2]:6.0f}x ({ratios[0]:.0f}-{ratios[-1]:.0f})  {apart}",
                    flush=True,
                )
        print()


if __name__ == "__main__":
    main()
