"""How much cheaper a seed is in an ensemble: `make bench`, or python -m quantized_training.bench.

Trains Task I twice in one process: all seeds in one tensor program, and seed by seed in an ordinary torch loop (an
nn.Linear, autograd, the same optimizer, the same batches). Prints the ratio of the times per seed, and the largest
difference between the trained weights of the two.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.nn.functional import softplus

from .optimizer import QuantizedOptimizer
from .tasks import logistic


def train_one(make, ensemble: logistic.Ensemble) -> torch.Tensor:
    """One seed in the loop that anybody would write; returns the latent weights, (1, d)."""
    model = torch.nn.Linear(ensemble.initial.shape[1], 1, bias=False, dtype=ensemble.initial.dtype)
    with torch.no_grad():
        model.weight.copy_(ensemble.initial)
    method = make(ensemble)
    optimizer = QuantizedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), method)
    per_epoch = ensemble.order.shape[2] // ensemble.batch
    for k, z in enumerate(ensemble.batches()):
        optimizer.zero_grad()
        softplus(-model(z[0])).mean().backward()
        optimizer.step()
        if (k + 1) % per_epoch == 0:
            method.anneal()
    with optimizer.latent():
        return model.weight.detach().clone()


def compare(name: str, ensemble: logistic.Ensemble, singles: int, repeats: int) -> tuple[list[float], float]:
    """Ratios of time per seed (loop / ensemble), one per repeat, and the largest difference between the weights."""
    make = logistic.METHODS[name]
    ratios, difference = [], 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        together = logistic.train(make, ensemble, record=False)
        middle = time.perf_counter()
        alone = [train_one(make, ensemble[i : i + 1]) for i in range(singles)]
        end = time.perf_counter()
        ratios.append((end - middle) / singles / ((middle - start) / len(ensemble.seeds)))
        difference = max(difference, (torch.cat(alone) - together[:singles]).abs().max().item())
    return ratios, difference


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m quantized_training.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=256, help="seeds in the ensemble (default 256)")
    parser.add_argument("--singles", type=int, default=8, help="seeds timed one by one (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each pair is timed (default 3)")
    parser.add_argument("--methods", nargs="+", default=list(logistic.METHODS), choices=list(logistic.METHODS), metavar="METHOD",
                        help="which methods (default all)")  # fmt: skip
    parser.add_argument("--threads", type=int, help="torch threads for both sides (default: torch's own choice)")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32",
                        help="precision of both sides (default float32, torch's own; the book computes in float64)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.singles > args.seeds or min(args.singles, args.repeats) < 1:
        parser.error(
            f"--singles {args.singles} and --repeats {args.repeats}: allowed is 1 to --seeds {args.seeds}, and 1 or more"
        )
    if args.threads:
        torch.set_num_threads(args.threads)
    print(
        f"Task I, {args.seeds} seeds, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.dtype}, no GPU"
    )
    print("time per seed, ordinary loop / ensemble: median (range) over the repeats; largest difference of the weights")
    for title, shared in (("one data set and batch order for all seeds", True), ("own data set and batches", False)):
        ensemble = logistic.draw(args.seeds, shared=shared, dtype=getattr(torch, args.dtype))
        compare("Full precision", ensemble, 1, 1)  # warm-up
        print(f"\n{title}")
        for name in args.methods:
            ratios, difference = compare(name, ensemble, args.singles, args.repeats)
            ratios.sort()
            print(
                f"  {name:30s} {ratios[len(ratios) // 2]:6.0f}x ({ratios[0]:.0f}-{ratios[-1]:.0f})  max |dw| {difference:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
