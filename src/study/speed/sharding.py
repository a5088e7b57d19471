"""The methods on two processes: python -m study.speed.sharding [--json].

Every method here treats each weight by itself, its dual variables included, so all of it can be cut into shards. The
same small network is trained (1) in one process, (2) by two processes under DistributedDataParallel, each of which owns
the optimizer of half of the parameters (ZeroRedundancyOptimizer), and (3) by two processes under FSDP2, each of which
stores half of every parameter. The optimizers are the ordinary ones of this package.

Loopback, CPU and float64 throughout; summing the two halves of a batch in another order is the only difference.

A gradient that is not finite: under FSDP2 every process raises FloatingPointError, because the check adds up the whole
gradient, wherever its parts are. Under ZeroRedundancyOptimizer only the owner of the parameter raises, and the others
wait for its weights until the process group's timeout: check there before step(), every process has all gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from quantized_training import (
    PHI,
    PSI,
    SGDA,
    ASkew,
    BinaryConnect,
    Geometric,
    Levels,
    ProxQuant,
    QuantizedOptimizer,
    StraightThrough,
)
from quantized_training.methods.base import _local
from quantized_training.transaction import _whole

from ..results import show

TOLERANCE = 1e-10  # of the weights, which are of size 1
RANKS, STEPS, BATCH, LR, TIMEOUT = 2, 30, 32, 0.05, 60
LEVELS = Levels.ternary()
METHODS = {
    "ASkewSGD, psi (19)": lambda: ASkew(LEVELS, PSI, epsilon=Geometric(0.06, 0.95)),
    "ASkewSGD, phi (22)": lambda: ASkew(LEVELS, PHI, epsilon=Geometric(0.2, 0.95)),
    "SGDA": lambda: SGDA(LEVELS, epsilon=0.05, dual_lr=0.05),
    "BinaryConnect, nearest": lambda: BinaryConnect(LEVELS, stochastic=False),
    "Straight-through": lambda: StraightThrough(LEVELS),
    "ProxQuant": lambda: ProxQuant(LEVELS, 0.05),
}


def network() -> nn.Sequential:
    """The same network in every process, 16-24-8, with even numbers of rows in each parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), nn.Linear(24, 8)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(2.4 * torch.rand_like(p) - 1.2)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, method, latents, part: int = 0, parts: int = 1) -> list:
    """Steps on one of the `parts` of every batch; what `latents()` says after each step."""
    rng = torch.Generator().manual_seed(1)
    teacher = torch.randn(16, 8, generator=rng, dtype=torch.float64)
    path = []
    for _ in range(STEPS):
        x = torch.randn(BATCH, 16, generator=rng, dtype=torch.float64)
        x, y = (t.chunk(parts)[part] for t in (x, (x @ teacher).sin()))
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        method.anneal()
        path.append(latents())
    return path


def sgd(params, method, lr: float) -> QuantizedOptimizer:
    """SGD, wrapped by a method; ZeroRedundancyOptimizer takes this function for its optimizer class."""
    return QuantizedOptimizer(torch.optim.SGD(params, lr=lr), method)


def stored(optimizer: QuantizedOptimizer) -> dict[str, int]:
    """Elements that this process stores: the optimizer's weights, a second copy where there is one, and duals."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state[p] for p in parameters]
    return {
        "weights": sum(_local(p).numel() for p in parameters),
        "latent": sum(_local(s["latent"]).numel() for s in states if "latent" in s),
        "duals": sum(s["dual"].numel() for s in states if "dual" in s),
    }


def latent_weights(optimizer: QuantizedOptimizer, names: dict) -> dict[str, Tensor]:
    """Name -> the whole latent weights, of the parameters that this optimizer has."""
    with optimizer.latent():
        return {names[p]: _whole(p).detach().clone() for group in optimizer.param_groups for p in group["params"]}


def run_alone(make) -> tuple[list, dict]:
    model, method = network(), make()
    optimizer = sgd(model.parameters(), method, LR)
    names = {p: name for name, p in model.named_parameters()}
    return train(model, optimizer, method, lambda: latent_weights(optimizer, names)), stored(optimizer)


def run_zero(make, part: int) -> tuple[list, dict]:
    """DDP with ZeroRedundancyOptimizer: each rank's QuantizedOptimizer has the parameters that this rank owns."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model, method = network(), make()
    names = {p: name for name, p in model.named_parameters()}
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), sgd, method=method, lr=LR)
    optimizer.step()  # without gradients: only sends the weights round, which each owner has rounded
    path = train(wrapped, optimizer, method, lambda: latent_weights(optimizer.optim, names), part, RANKS)
    everybody: list = [None] * RANKS
    dist.all_gather_object(everybody, path)
    return [{k: w for part in parts for k, w in part.items()} for parts in zip(*everybody, strict=True)], stored(
        optimizer.optim
    )


def run_fsdp(make, part: int) -> tuple[list, dict]:
    """FSDP2: each rank stores its rows of every parameter, and its QuantizedOptimizer works on them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, method = network(), make()
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = sgd(model.parameters(), method, LR)
    names = {p: name for name, p in model.named_parameters()}
    return train(model, optimizer, method, lambda: latent_weights(optimizer, names), part, RANKS), stored(optimizer)


def difference(path: list, expected: list) -> float:
    """Largest difference of any weight at any step."""
    return max((a[k] - b[k]).abs().max().item() for a, b in zip(path, expected, strict=True) for k in b)


def worker(rank: int, folder: str, fault: bool) -> None:
    """One of the processes; rank 0 prints the rows as JSON."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=TIMEOUT)
    )
    rows = []
    for name, make in METHODS.items():
        expected, alone = run_alone(make)
        row: dict = {"method": name, "one process": [alone]}
        for key, run in (("DDP + ZeRO", run_zero), ("FSDP2", run_fsdp)):
            path, mine = run(make, 0 if fault else rank)
            everybody: list = [None] * RANKS
            dist.all_gather_object(everybody, mine)
            row[key] = everybody
            row[f"{key} difference"] = difference(path, expected)
        rows.append(row)
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(rows))


def demonstrate(fault: bool = False) -> list[dict]:
    """One row per method, from processes of their own (so that it works in a notebook, too).

    Keys: method; "DDP + ZeRO difference" and "FSDP2 difference", the largest difference of the latent weights from the
    run in one process over all steps; "one process", "DDP + ZeRO" and "FSDP2", one dict of element counts per process
    (weights of the optimizer, latent, duals). fault: the second process trains on the first one's half of
    every batch, and the differences must show it. Raises RuntimeError where gloo or FSDP2 is missing, or a process fails or hangs.
    """
    if not (dist.is_available() and dist.is_gloo_available()):
        raise RuntimeError("this torch was built without torch.distributed's gloo backend: nothing can be shown")
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError:
        raise RuntimeError(f"torch {torch.__version__} has no FSDP2; it needs torch 2.6 or newer") from None
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "study.speed.sharding", "--worker", folder, *["--fault"] * fault]
        loopback = "lo" if sys.platform == "linux" else "lo0"
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # where this package was found
        environment = {"GLOO_SOCKET_IFNAME": loopback, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        processes = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            for rank in range(RANKS)
        ]  # fmt: skip
        try:
            results = [process.communicate(timeout=2 * TIMEOUT) for process in processes]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the processes did not finish within {2 * TIMEOUT} s") from None
        finally:
            for process in processes:
                process.kill()
        for process, (_, errors) in zip(processes, results, strict=True):
            if process.returncode:
                raise RuntimeError(f"a process failed: {errors[-2000:]}")
    return json.loads(results[0][0].splitlines()[-1])


def table(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `demonstrate()`'s result, ready to be shown."""
    header = [
        "Method",
        "ZeRO: max |Δw|",
        "FSDP2: max |Δw|",
        "State in one process",
        "State per rank, ZeRO",
        "State per rank, FSDP2",
    ]

    def state(row: dict, key: str) -> str:
        return " + ".join(f"{part['latent'] + part['duals']:,}" for part in row[key])

    return header, [
        [row["method"], f"{row['DDP + ZeRO difference']:.0e}", f"{row['FSDP2 difference']:.0e}"]
        + [state(row, key) for key in ("one process", "DDP + ZeRO", "FSDP2")]
        for row in rows
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m study.speed.sharding", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--fault", action="store_true", help="give the second process the first one's half of every batch"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        return worker(args.rank, args.worker, args.fault)
    try:
        rows = demonstrate(args.fault)
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
    if args.json:
        print(json.dumps(rows))
        return
    header, cells = table(rows)
    show([header, *cells])


if __name__ == "__main__":
    main()
