"""Two processes, DDP with ZeroRedundancyOptimizer and FSDP2, against one process."""

import json
import os
import subprocess
import sys

import pytest
import torch.distributed

from study.speed import sharding

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="this torch has no gloo"
)
DIFFERENCES = ("DDP + ZeRO difference", "FSDP2 difference")


@pytest.fixture(scope="module")
def rows():
    return sharding.demonstrate()


def test_trajectories_are_those_of_one_process(rows):
    assert [row["method"] for row in rows] == list(sharding.METHODS)
    for row in rows:
        for key in DIFFERENCES:
            assert row[key] <= sharding.TOLERANCE, (row["method"], key, row[key])


def test_state_is_sharded(rows):
    """Nothing is stored twice, FSDP2 halves exactly, ZeRO gives each process whole parameters."""
    weights = sum(p.numel() for p in sharding.network().parameters())
    for row in rows:
        (alone,) = row["one process"]
        levels = len(sharding.LEVELS.values)
        assert alone["weights"] == weights
        assert alone["duals"] == ((levels + 1) * weights if row["method"] == "SGDA" else 0)
        assert alone["latent"] == (weights if row["method"] in ("BinaryConnect, nearest", "Straight-through") else 0)
        for kind, total in alone.items():
            zero, fsdp = ([part[kind] for part in row[key]] for key in ("DDP + ZeRO", "FSDP2"))
            assert fsdp == [total / 2] * 2
            assert sum(zero) == total and (total == 0 or max(zero) < total)


def test_the_trajectories_are_worth_comparing():
    """In one process the weights move, and each method goes its own way."""
    ends = []
    for make in sharding.METHODS.values():
        path, _ = sharding.run_alone(make)
        assert sharding.difference(path[-1:], path[:1]) > 0.01
        ends.append(path[-1:])
    for i, a in enumerate(ends):
        assert all(sharding.difference(a, b) > 1e-4 for b in ends[:i])


def test_a_process_that_trains_on_the_wrong_half_of_the_batch_is_noticed():
    for row in sharding.demonstrate(fault=True):
        for key in DIFFERENCES:
            assert row[key] > 1e3 * sharding.TOLERANCE, (row["method"], key)


NAN = """
import sys, torch, torch.distributed as dist
from datetime import timedelta
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from study.speed import sharding
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60))
model = sharding.network()
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer = sharding.sgd(model.parameters(), sharding.METHODS["SGDA"](), 0.05)
model(torch.ones(4, 16, dtype=torch.float64)).sum().backward()
before = [p.to_local().clone() for p in model.parameters()]
if rank == 1:
    model[0].weight.grad.to_local()[0, 0] = float("nan")
try:
    optimizer.step()
    print("went on")
except FloatingPointError:
    same = all(torch.equal(p.to_local(), b) for p, b in zip(model.parameters(), before))
    print("raised, unchanged" if same else "raised, changed")
dist.destroy_process_group()
"""


def test_under_fsdp_every_process_raises_when_one_shard_of_a_gradient_is_nan(tmp_path):
    environment = {"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0", **os.environ}
    command = [sys.executable, "-c", NAN]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[0].strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said == ["raised, unchanged"] * 2


def test_the_command_prints_json_and_the_table_shows_every_row(rows, monkeypatch, capsys):
    monkeypatch.setattr(sharding, "demonstrate", lambda fault: rows)
    sharding.main(["--json"])
    assert json.loads(capsys.readouterr().out) == rows
    sharding.main([])
    text = capsys.readouterr().out
    assert all(name in text for name in sharding.METHODS) and "1,216 + 1,216" in text


def test_a_missing_backend_is_said_plainly(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_gloo_available", lambda: False)
    with pytest.raises(RuntimeError, match="without torch.distributed's gloo"):
        sharding.demonstrate()
    with pytest.raises(SystemExit, match="gloo"):
        sharding.main([])
