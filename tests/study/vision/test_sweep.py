"""Task III's sweep and its command: the same table however it is made, nothing run twice, nothing lost, nothing overwritten."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import killed_before_the_checkpoint_goes
from quantized_training import Levels, layers
from study import __main__ as command
from study import results
from study.vision import grid, networks, sweep, training
from study.vision.grid import Cell, Profile

TINY = Profile("tiny", "digits", 100, 50, "resnet20", 2, 1, 2, 20, 0.1, 2)
PLAIN = replace(TINY, name="plain", network="plain", width=8)  # without batch normalisation
CELLS = grid.cells(TINY, bits=(1, grid.FULL), seeds=(0,))
FEW = grid.cells(TINY, ("BinaryConnect", "ASkewSGD"), (1, 2), seeds=(0,))


def plain(classes: int, channels: int, width: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, width), nn.ReLU(), nn.Linear(width, classes))


def numbers(folder: Path, name: str = "task_3_tiny") -> list[dict[str, str]]:
    """The rows in their order, without times."""
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "utilisation")} for r in results.read_text(name, folder)
    ]


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob("*.*")}


def run(folder: Path, cells=FEW, profile=TINY, **settings) -> None:
    sweep.sweep(profile, cells, folder=folder, kept=folder / "kept", **settings)


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with the table of all methods; not to be written to."""
    folder = tmp_path_factory.mktemp("done")
    run(folder, CELLS)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """`main` knows the tiny profile, and writes here."""
    monkeypatch.setattr(results, "DATA", tmp_path / "data")
    for profile in (TINY, PLAIN):
        monkeypatch.setitem(grid.PROFILES, profile.name, profile)
    return tmp_path / "data" / "results"


@pytest.fixture
def still(monkeypatch):
    """From here on no cell may run."""
    return lambda: monkeypatch.setattr(grid, "run", lambda *_, **__: pytest.fail("a cell was run"))


def main(*arguments: str) -> int:
    return command.main(["task3", "--profile", "tiny", "--jobs", "1", *arguments])


# One table


def test_table_of_all_methods(done):
    rows = numbers(done)
    assert len(CELLS) == 7 and len(rows) == 2 * len(CELLS)
    assert {tuple(row[k] for k in Cell.__dataclass_fields__) for row in rows} == set(map(sweep.key, CELLS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one = grid.run(TINY, CELLS[5], grid.images(TINY))
    torch.set_num_threads(threads)
    stored = sweep.read(TINY, done)[sweep.key(CELLS[5])]
    for row, expected in zip(stored, one, strict=True):
        for name in ("settings", "epoch", "loss", "quantised_accuracy", "distance"):
            assert row[name] == results.stored(expected[name])
    p = results.provenance("task_3_tiny", done)
    assert p["command"] == "python -m study task3 --profile tiny"
    assert p["hardware"] == results.hardware() and re.fullmatch("[0-9a-f]{16}", p["code"]) and "tiny" in p["about"]
    assert not list(done.rglob("*.pt")), "checkpoints of stored cells are left"


def test_two_processes_and_a_cluster_give_the_same_table(done, tmp_path):
    """Whose workers have two threads each, which must take turns."""
    from distributed import LocalCluster

    run(tmp_path / "two", CELLS[::-1], jobs=2)
    assert numbers(tmp_path / "two") == numbers(done)
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        run(tmp_path / "cluster", CELLS, dask=cluster.scheduler_address)
    assert numbers(tmp_path / "cluster") == numbers(done)


def test_what_is_stored_is_not_run(done, still):
    before = content(done)
    still()
    run(done, CELLS)
    assert content(done) == before
    with pytest.raises(pytest.fail.Exception, match="was run"):
        run(done, [replace(CELLS[0], seed=1)])


def test_other_settings_replace_their_own_rows_alone(tmp_path):
    run(tmp_path, FEW[:3])
    old, other = numbers(tmp_path), replace(TINY, lr=0.05)
    assert list(sweep.states(other, FEW[:4], tmp_path).values()) == [sweep.CHANGED] * 3 + [sweep.MISSING]
    run(tmp_path, FEW[:1], other)
    new = numbers(tmp_path)
    changed = [a for a, b in zip(old, new, strict=True) if a != b]
    assert len(changed) == 2 and {row["method"] for row in changed} == {FEW[0].method}
    assert list(sweep.states(other, FEW[:2], tmp_path).values()) == [sweep.STORED, sweep.CHANGED]


def test_more_epochs_than_stored_are_run(tmp_path):
    """A table that was cut by hand, with a JSON that fits."""
    run(tmp_path, FEW[:2])
    whole = numbers(tmp_path)
    results.write("task_3_tiny", results.read_text("task_3_tiny", tmp_path)[:-1], "x", "x", "x", tmp_path)
    assert sorted(sweep.states(TINY, FEW[:2], tmp_path).values()) == [sweep.MISSING, sweep.STORED]
    run(tmp_path, FEW[:2])
    assert numbers(tmp_path) == whole


def test_a_diverged_cell_is_stored_and_not_run_again(here, monkeypatch, still, capsys):
    monkeypatch.setattr(training, "cross_entropy", lambda y, _: (0 * y).sum() + math.inf)
    chosen = ("--method", "straight-through", "--bits", "1", "--seeds", "0")
    assert main(*chosen) == 0
    last = numbers(here)[-1]
    assert last["epoch"] == "1" and last["loss"] == last["quantised_accuracy"] == "nan"
    assert "1 diverged: 0" in capsys.readouterr().out
    still()
    assert main(*chosen) == 0


def test_note_and_hardware_stay_with_the_table(here, monkeypatch, capsys):
    """Of every call that wrote to it."""
    names, images = ["a GPU", "another GPU"], grid.images(TINY)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[0])
    monkeypatch.setattr(sweep, "_images", lambda *_: replace(images, origin="some files differ"))
    monkeypatch.setattr(sweep.results, "hardware", lambda device, f=results.hardware: f("cuda:0"))
    assert main("--method", "binaryconnect", "--bits", "1", "--seeds", "0") == 0
    assert "digits: some files differ." in capsys.readouterr().out
    monkeypatch.setattr(sweep, "_images", lambda *_: images)
    names.reverse()
    assert main("--method", "askewsgd", "--bits", "1", "--seeds", "0", "7") == 0
    p = results.provenance("task_3_tiny", here)
    machine = results.hardware("cuda:0").partition(", ")[2]
    assert p["hardware"] == f"a GPU, {machine}; another GPU, {machine}" and p["about"].count("some files differ") == 1
    assert p["command"].endswith("tiny --seeds 0 7")


def test_command_of_a_table(here):
    cells = [Cell("BinaryConnect", 1), Cell("BinaryConnect", 1, "raw", "3x3 only", 1)]
    found = dict.fromkeys(map(sweep.key, cells))
    words = sweep.command(TINY, found).split()
    assert words[5:] == "tiny --levels raw scaled --quantise 3x3-only all".split()
    made = command.parser().parse_args(words[3:])
    assert (made.levels, made.quantise) == (["raw", "scaled"], ["3x3-only", "all"])


# Interrupted


def test_ctrl_c_and_the_same_command(here, done, monkeypatch, capsys):
    calls, original, chosen = [], grid.run, ("--seeds", "0", "--bits", "1", "32")

    def interrupted(*arguments, **how):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **how)

    monkeypatch.setattr(grid, "run", interrupted)
    assert main(*chosen) == 130 and len(numbers(here)) == 4
    assert "the same command goes on" in capsys.readouterr().err
    assert main(*chosen) == 0 and numbers(here) == numbers(done)
    assert len(calls) == len(CELLS) + 1 and calls.count(calls[2]) == 2


def test_killed_between_the_table_and_its_json(tmp_path, monkeypatch):
    def kill(source, target, replace=os.replace):
        if Path(target).name == "task_3_tiny.json":
            raise KeyboardInterrupt
        replace(source, target)

    run(tmp_path, FEW[:1])
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(os, "replace", kill)
        run(tmp_path, FEW)
    with pytest.raises(results.DamagedResults, match="task_3_tiny.csv.*python -m study task3"):
        results.read("task_3_tiny", tmp_path)
    run(tmp_path, FEW)
    assert len(numbers(tmp_path)) == 2 * len(FEW)


def forkserver():
    """Processes that have imported everything when they start; of modules that it does not find it says nothing."""
    context = multiprocessing.get_context("forkserver")
    names = ["pytest", "sklearn.datasets", "tqdm.auto", "torch._dynamo", "filelock", "study.__main__", sweep.__name__]
    context.set_forkserver_preload(names)
    return context


def test_killed_at_random_and_started_again(tmp_path):
    """Until 7 are dead, at least 3 of them with a table and 2 with a checkpoint; always the same table comes out."""
    run(tmp_path / "whole")
    choose, context = random.Random(0), forkserver()
    for folder in ("first", "second"):  # the first starts the server, too
        begun = time.perf_counter()
        process = context.Process(target=run, args=(tmp_path / folder,))
        process.start()
        process.join()
        longest = time.perf_counter() - begun
    dead = stored = running = 0
    while dead < 7 or stored < 3 or running < 2:
        folder, exitcode = tmp_path / str(dead), None
        while exitcode != 0:
            process = context.Process(target=run, args=(folder,))
            process.start()
            process.join(choose.uniform(0, longest))
            process.kill()
            process.join()
            exitcode = process.exitcode
            assert exitcode in (0, -signal.SIGKILL)
            longest *= 1 if folder.exists() else 1.1  # a machine that got busy meanwhile
            dead += exitcode != 0
            stored += exitcode != 0 and (folder / "task_3_tiny.csv").exists()
            running += exitcode != 0 and bool(list(folder.rglob("*.pt")))
        assert numbers(folder) == numbers(tmp_path / "whole") and not list(folder.rglob("*.pt"))


def test_killed_between_the_table_and_the_checkpoint(tmp_path, monkeypatch, still):
    """The checkpoint that is left goes with the next sweep, which runs nothing."""
    with killed_before_the_checkpoint_goes(monkeypatch):
        run(tmp_path, FEW[:1])
    assert len(list(tmp_path.rglob("*.pt"))) == 1
    before = numbers(tmp_path)
    still()
    run(tmp_path, FEW[:1])
    assert numbers(tmp_path) == before and not list(tmp_path.rglob("*.pt"))


def test_a_sweep_of_two_processes_killed(tmp_path):
    """Its workers notice; whatever they still write is what the next sweep would."""
    run(tmp_path / "whole")
    process = forkserver().Process(target=run, args=(tmp_path / "two",), kwargs={"jobs": 2})
    process.start()
    while process.is_alive() and not (tmp_path / "two" / "task_3_tiny.csv").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run(tmp_path / "two", jobs=2)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "whole")


def slowly(folder: Path, cells, write=results.write) -> None:
    """A sweep that takes its time between reading the table and writing it."""
    results.write = lambda *arguments: (time.sleep(0.4), write(*arguments))
    run(folder, cells)


def test_two_sweeps_at_a_time_lose_no_rows(tmp_path):
    context = forkserver()
    halves = [context.Process(target=slowly, args=(tmp_path, FEW[i::2])) for i in range(2)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
    assert [p.exitcode for p in halves] == [0, 0] and len(numbers(tmp_path)) == 2 * len(FEW)


# The command


def test_list_runs_nothing(here, still, capsys):
    still()
    assert main("--list", "--method", "askewsgd", "--bits", "2") == 0 and not here.exists()
    assert re.search(r"^ASkewSGD +2 +scaled +all +- +- +2 missing: 0 1$", capsys.readouterr().out, re.MULTILINE)


def test_list_and_last_words_tell_the_accuracies(here, capsys):
    assert main("--method", "askewsgd", "--bits", "2") == 0
    out = capsys.readouterr().out
    x = [100 * float(row["quantised_accuracy"]) for row in numbers(here) if row["epoch"] == "2"]
    words = rf"^ASkewSGD +2 .* {sum(x) / 2:.2f} ± {abs(x[0] - x[1]) / 2**0.5:.2f} +2 stored: 0 1$"
    assert re.search(words, out, re.MULTILINE) and out.endswith(f"{here / 'task_3_tiny.csv'}\n")
    before = content(here)
    assert main("--method", "askewsgd", "--bits", "2", "4", "--list") == 0 and content(here) == before
    out = capsys.readouterr().out
    assert re.search(words, out, re.MULTILINE) and re.search(r"^ASkewSGD +4 .*2 missing: 0 1$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            ("--method", "adam"),
            "'adam'.*'full-precision', 'binaryconnect', 'straight-through', 'proxquant-l1', 'askewsgd'",
        ),
        (("--bits", "3"), "3 .*1, 2, 4, 32"),
        (("--levels", "round"), "'round'.*'scaled', 'raw'"),
        (("--quantise", "none"), "'none'.*'all', 'all-but-first-and-last', '3x3-only'"),
        (("--profile", "tpu"), "'tpu'.*'cpu', 'subset', 'gpu'"),
        (("--jobs", "0"), "'0': allowed are integers from 1"),
        (("--seeds", "-1"), "'-1': allowed are integers from 0"),
        (("--seeds", "one"), "'one': allowed are integers from 0"),
        (("--device", "tpu9"), "'tpu9': allowed are cpu, cuda"),
        (("--bits", "1", "--method", "full-precision"), "full precision has bits 32, the other methods 1, 2, 4"),
        (("--dask", "tcp://127.0.0.1:1"), "--jobs and --dask"),
        pytest.param(("--device", "cuda"), "no GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="GPU")),
    ],
)
def test_what_is_unknown_is_refused_naming_what_is_allowed(here, capsys, bad, words):
    with pytest.raises(SystemExit) as error:
        main(*bad)
    assert error.value.code == 2 and re.search(f"task3: error: .*{words}", capsys.readouterr().err)


@pytest.mark.parametrize(
    "names", [[slug for slug, name in command.METHODS.items() if name in grid.METHODS], list(grid.METHODS)]
)
def test_methods_by_slug_and_by_name(here, monkeypatch, names):
    assert {"askewsgd", "modified-askewsgd", "proxquant-l1", "sgda", "full-precision"} < command.METHODS.keys()
    assert len(command.METHODS) == len(grid.METHODS) + len(grid.MORE) and len(command.PLACES) == len(layers.QUANTIZE)
    seen = []
    monkeypatch.setattr(sweep, "sweep", lambda profile, cells, **_: seen.extend(cells))
    places = ("--quantise", *command.PLACES, "--levels", "scaled", "raw")
    assert main("--method", *names, *places) == 0
    assert set(seen) == set(grid.cells(TINY, levels=grid.LEVELS, quantise=layers.QUANTIZE)) and len(seen) == 18 * 12 + 2


def test_deterministic_binaryconnect_is_run_where_it_is_named(monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "sweep", lambda profile, cells, **_: seen.extend(cells))
    assert command.main(["task3", "--profile", "cpu", "--list"]) == 0
    assert command.main(["task3", "--profile", "cpu", "--method", "binaryconnect-deterministic", "--bits", "1"]) == 0
    assert [c.method for c in seen] == ["BinaryConnect, deterministic"] * 3
    assert not grid.made(seen[0])(Levels.binary(), 20, 0).stochastic


def test_help_has_every_option_and_name(capsys):
    with pytest.raises(SystemExit):
        command.main(["task3", "--help"])
    text = capsys.readouterr().out
    options = "profile method bits levels quantise seeds data jobs dask device list results"
    for word in (*(f"  --{name}" for name in options.split()), *grid.PROFILES, *command.METHODS, *command.PLACES):
        assert word in re.sub(r"-\n +", "-", text), word


def edit(folder):
    (folder / "task_3_tiny.csv").write_text(
        (folder / "task_3_tiny.csv").read_text(encoding="utf-8").replace("0.1", "0.2", 1), encoding="utf-8"
    )


def without_json(folder):
    (folder / "task_3_tiny.json").unlink()


def without_table(folder):
    (folder / "task_3_tiny.csv").unlink()


def other_columns(folder):
    rows = [{k: v for k, v in row.items() if k != "changed"} for row in results.read_text("task_3_tiny", folder)]
    results.write("task_3_tiny", rows, "x", "x", "x", folder)


@pytest.mark.parametrize("damage", [edit, without_json, without_table, other_columns])
def test_a_damaged_table_is_named_and_left_alone(here, still, capsys, damage):
    run(here, FEW[:1])
    damage(here)
    still()
    before = content(here)
    for more in ([], ["--list"]):
        assert main(*more) == 1 and content(here) == before
        assert re.search(r"task_3_tiny\.(csv|json)", capsys.readouterr().err)


def test_images_that_are_not_there(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(grid.PROFILES, "tiny", replace(TINY, images="cifar-10"))
    assert main("--data", str(tmp_path)) == 1 and not here.exists()
    assert str(tmp_path) in capsys.readouterr().err


def test_where_nothing_can_be_stored_nothing_is_run(here, tmp_path, still, capsys, monkeypatch):
    still()
    (tmp_path / "file").touch()
    for place in ("file", "file/inside"):
        assert main("--results", str(tmp_path / place)) == 1
        assert re.search(rf"{place}: results cannot be stored there .*nothing was run", capsys.readouterr().err)
    monkeypatch.setattr(results.tempfile, "TemporaryFile", read_only)
    assert main() == 1 and "Read-only file system); nothing was run" in capsys.readouterr().err
    assert main("--list") == 0 and not here.exists()


def read_only(**_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_no_cluster_there(here, capsys):
    import dask
    import distributed  # noqa: F401  (sets defaults)

    words = ["task3", "--profile", "tiny", "--dask", "tcp://127.0.0.1:1"]
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        assert command.main(words) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


# torchrun


def torchrun(folder: Path, processes: int, *arguments: str) -> subprocess.CompletedProcess:
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        __file__,
    ]
    words += [str(folder), "task3", "--profile", "plain", "--method", "binaryconnect", "askewsgd", "--bits", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*words, *arguments], capture_output=True, text=True, env=environment, timeout=600)


def test_torchrun_trains_the_cells_of_one_process(tmp_path, monkeypatch):
    done = torchrun(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 stored") == 0 and done.stdout.count("2 stored: 0 1") == 2, "one process prints"
    monkeypatch.setattr(networks, "plain", plain, raising=False)
    cells = grid.cells(PLAIN, ("BinaryConnect", "ASkewSGD"), (1,))
    run(tmp_path / "one", cells, PLAIN)
    two, one = (numbers(folder, "task_3_plain") for folder in (tmp_path / "results", tmp_path / "one"))
    assert len(one) == len(two) == 8
    for a, b in zip(one, two, strict=True):
        assert a.pop("settings") != b.pop("settings"), "with batch normalisation the numbers would be others"
        for name, value in a.items():
            same = value == b[name] if name in ("method", "levels", "quantise") else None
            assert same or float(b[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-6, nan_ok=True), name
    for processes, state in ((2, sweep.STORED), (1, sweep.CHANGED)):
        monkeypatch.setattr(grid.distributed, "place", lambda n=processes: (0, n))
        assert set(sweep.states(PLAIN, cells, tmp_path / "results").values()) == {state}


@pytest.mark.parametrize("bad", [("--jobs", "2"), ("--dask", "tcp://127.0.0.1:1"), ("--device", "cpu:0")])
def test_torchrun_is_no_sweep_in_parallel(here, still, monkeypatch, capsys, bad):
    still()
    monkeypatch.setattr(command, "place", lambda: (0, 2))
    with pytest.raises(SystemExit):
        command.main(["task3", "--profile", "tiny", *bad])
    assert "under torchrun" in capsys.readouterr().err


if __name__ == "__main__":  # under torchrun: the folder, and the command's arguments
    results.DATA = Path(sys.argv[1]) / "data"
    grid.PROFILES["plain"], networks.plain = PLAIN, plain
    sys.exit(command.main([*sys.argv[2:], "--results", str(Path(sys.argv[1]) / "results")]))
