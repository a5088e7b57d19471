"""What README and the other top-level files promise."""

import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import quantized_training

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPET = re.search(r"<!-- snippet -->\n```python\n(.*?)```", README, re.S)[1]


def test_the_snippet_trains_a_network_with_binary_weights(tmp_path):
    check = (
        "\nwith optimizer.quantized():\n"
        "    print(sorted({v for p in model.parameters() if p.ndim > 1 for v in p.detach().unique().tolist()}))\n"
        "print(max(p.abs().max().item() for p in model.parameters() if p.ndim == 1) > 0)\n"
    )
    seeded = "import torch\ntorch.manual_seed(0)\n" + SNIPPET + check
    run = subprocess.run([sys.executable, "-c", seeded], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    said, levels, biases_trained = run.stdout.splitlines()[-3:]
    assert re.fullmatch(r"accuracy with binary weights: [01]\.\d\d; signs that changed: \d+% and \d+%", said)
    assert levels == "[-1.0, 1.0]"
    assert biases_trained == "True"


def rows() -> list[tuple[str, float, float]]:
    """The table behind the snippet: what stands in the place of its method, mean accuracy, share of signs that changed."""
    found = re.findall(r"^\| `([^`]+)`[^|]*\| (0\.\d+) \| (\d+) % \|$", README, re.M)
    return [(method, float(accuracy), int(share) / 100) for method, accuracy, share in found]


@pytest.mark.parametrize("method, accuracy, share", rows())
def test_the_methods_of_readme_do_what_its_table_says(method, accuracy, share):
    """Twelve seeds; weights change their level, in every run."""
    code = SNIPPET.replace("BinaryConnect(levels, stochastic=False)", method)
    assert (code == SNIPPET) == (method == "BinaryConnect(levels, stochastic=False)")
    code = compile(code, "README.md", "exec")
    ends, moved = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        names = {name: getattr(quantized_training, name) for name in quantized_training.__all__}
        exec(code, names)
        ends.append(names["accuracy"])
        weights = [p for p in names["model"].parameters() if p.ndim > 1]
        signs = [s for s in names["start"] if s.ndim > 1]
        moved.append(sum(int((p.sign() != s).sum()) for p, s in zip(weights, signs, strict=True)) / 96)
    assert statistics.fmean(ends) == pytest.approx(accuracy, abs=0.01) and min(moved) > 0.02
    assert statistics.fmean(moved) == pytest.approx(share, abs=0.02)


def test_the_table_of_readme_has_the_best_first_and_rounding_at_the_end_last():
    assert len(rows()) == 7 and rows()[0][0] in SNIPPET
    assert [a for _, a, _ in rows()] == sorted((a for _, a, _ in rows()), reverse=True)


def test_the_second_snippet_finishes_the_model_of_the_first(tmp_path):
    blocks = [re.search(rf"<!-- {name} -->\n```python\n(.*?)```", README, re.S)[1] for name in ("snippet", "finished")]
    check = """
from quantized_training import packing
again = copy.deepcopy(model)
again.load_state_dict(packing.load("model.qt"))
print(all(set(m.get_parameter(n).unique().tolist()) == {-1.0, 1.0} for m in (best, averaged, again) for n in ("0.weight", "2.weight")))
with torch.no_grad():
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    print(least, bce(best(x)[:, 0], y).item(), bce(again(x)[:, 0], y).item(), bce(model(x)[:, 0], y).item())
"""
    code = "import torch\ntorch.manual_seed(0)\n" + "\n".join(blocks) + check
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    on_levels, losses = run.stdout.splitlines()[-2:]
    least, *others = map(float, losses.split())
    assert on_levels == "True" and all(abs(x - least) < 1e-5 for x in others)
    assert re.search(r"\d+\.\d % on a level, 0\.\d+ half gaps away, \d+\.\d+ % changed", run.stderr)  # tqdm's bar


def visible() -> dict[str, str]:
    """What a reader copies: README's two snippets, the second after the first, and the one of the page on what to use."""
    first, second = (
        re.search(rf"<!-- {name} -->\n```python\n(.*?)```", README, re.S)[1] for name in ("snippet", "finished")
    )
    page = (ROOT / "notebooks" / "14_what_to_use.md").read_text(encoding="utf-8").split("(wu-own)=")[1]
    return {
        "first": first,
        "both": first + second,
        "page": re.search(r"```\{code-cell\} ipython3\n(?!:tags)(.*?)```", page, re.S)[1],
    }


@pytest.mark.parametrize(
    "name, said", [("first", "accuracy with"), ("both", "accuracy with"), ("page", "% right with one bit")]
)
def test_what_a_reader_copies_runs_alone_where_the_study_is_not_installed(tmp_path, name, said):
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "quantized_training").symlink_to(ROOT / "src" / "quantized_training")
    code = visible()[name]
    assert "study" not in code and "sklearn" not in code
    (tmp_path / "copied.py").write_text(code, encoding="utf-8")
    blocked = "import runpy, sys; sys.modules['study'] = None; runpy.run_path('copied.py')"
    where = os.environ | {"PYTHONPATH": str(tmp_path / "library")}
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", blocked],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=where,
    )
    assert run.returncode == 0, run.stderr
    assert said in run.stdout
    if name == "page":
        assert float(re.match(r"\d+\.\d", run.stdout)[0]) > 90  # chance is 10


def test_the_page_on_rerunning_shows_the_whole_snippet():
    page = (ROOT / "book" / "rerun.md").read_text(encoding="utf-8")
    first, last = map(int, re.search(r":lines: (\d+)-(\d+)", page).groups())
    after = README.split("<!-- snippet -->\n")[1].split("<!-- end of snippet -->")[0].splitlines()
    assert after[first - 2] == "```python"
    assert after[last] == "```"


def test_every_make_target_that_is_mentioned_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name in ("README.md", "CONTRIBUTING.md", "book/rerun.md"):
        mentioned = set(re.findall(r"\bmake ([a-z-]+)\b(?=[`\s])", (ROOT / name).read_text(encoding="utf-8")))
        assert {m for m in mentioned if f"`make {m}" in (ROOT / name).read_text(encoding="utf-8")} <= targets, name
    assert {"book", "test", "bench", "help", "serve"} <= targets


def test_relative_links_and_folders_exist():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / target).exists(), f"{name}: {target}"
    for folder in re.findall(r"^\| `([a-z_/]+/)`", README, re.M):
        assert (ROOT / folder).is_dir(), folder


def test_the_top_level_holds_what_was_agreed():
    for name in (
        "book",
        "notebooks",
        "src",
        "data",
        "_config.yml",
        "_toc.yml",
        "environment.yml",
        "LICENSE",
        "CITATION.cff",
    ):
        assert (ROOT / name).exists(), name
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["cff-version"] == "1.2.0"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "CC BY 4.0" in licence


def test_the_lock_file_pins_what_the_project_asks_for():
    lines = [
        x for x in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")
    ]
    pins = dict(line.split("==") for line in lines)  # every line is name==version: no hash, address or marker
    assert pins["torch"] == "2.13.0"
    assert pins["jupyter-book"].startswith("1.")
    assert not [v for v in pins.values() if "+" in v or " " in v]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    names = {re.match(r"[A-Za-z0-9-]+", r)[0].lower() for r in wanted} - {project["name"]}
    assert names <= {p.lower().replace("_", "-") for p in pins}
