"""Several processes train one network: torch.distributed between them, DistributedDataParallel around the network.

In a script that `torchrun --nproc-per-node 4 script.py` starts, once for each GPU (or with "cpu" for each core):

    with distributed("cuda"):
        run = train_images(..., device="cuda")

Started by python alone the same script trains in one process: without a process group nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .checkpoints import digest


@contextmanager
def distributed(device: str | torch.device = "cpu") -> Iterator[None]:
    """Within it the processes that torchrun started are one group: by gloo on a CPU, by nccl on a GPU.

    On a GPU each process's current device, which "cuda" stands for, is the one with the number LOCAL_RANK. Without the
    environment of torchrun (RANK, LOCAL_RANK and WORLD_SIZE) nothing happens. Raises what torch does where the group
    cannot be made.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def together() -> bool:
    """Whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def place() -> tuple[int, int]:
    """This process's number, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if together() else (0, 1)


def parallel(model: nn.Module, device: torch.device, done: int) -> nn.Module:
    """The model in DistributedDataParallel, on a GPU with its batch normalisations replaced by torch's SyncBatchNorm.

    done: finished epochs. Raises ValueError where the processes do not have the same weights after the same epochs.
    """
    if not together():
        return model
    states: list = [None] * dist.get_world_size()
    dist.all_gather_object(states, f"{digest(*model.state_dict().values())} after {done} epochs")
    if len(set(states)) > 1:
        raise ValueError(
            f"the processes start from different weights: {', '.join(states)}; the network must be made from torch's "
            "random numbers alone, and a checkpoint must lie where all of them see it"
        )
    if device.type == "cuda":  # elsewhere torch's SyncBatchNorm refuses to run
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return nn.parallel.DistributedDataParallel(model)


def average(values: Tensor) -> Tensor:
    """The mean of the processes' values, which are overwritten."""
    if together():
        dist.all_reduce(values)
    return values / place()[1]


def send_round(tensors: Iterable[Tensor]) -> None:
    """The first process's values for all."""
    for t in tensors if together() else ():
        dist.broadcast(t, 0)


def wait() -> None:
    """Until all processes are here."""
    if together():
        dist.barrier()
