"""What pip builds from the repository: the library alone, and what it asks for."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_is_the_library_and_needs_torch_alone(tmp_path):
    source = tmp_path / "source"
    for name in ("pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    there = (ROOT / "src" / "quantized_training").rglob("*.py")
    modules = {path.relative_to(ROOT / "src").as_posix() for path in there}
    assert {*names} == modules | {"quantized_training/py.typed"}
    metadata = wheel.read(next(n for n in wheel.namelist() if n.endswith("METADATA"))).decode()
    plain = [r for r in re.findall(r"^Requires-Dist: (.*)$", metadata, re.M) if "extra ==" not in r]
    assert [re.match(r"[\w-]+", requirement)[0] for requirement in plain] == ["torch"]
    assert "License-Expression: MIT" in metadata
    assert not re.search(r"\]\((?!https?:)", metadata), "a relative link leads nowhere on an index page"
