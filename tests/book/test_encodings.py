"""Text files are read and written as UTF-8, whatever the system's own encoding is."""

import ast
import re

from conftest import ROOT


def unnamed(tree: ast.AST) -> list[ast.Call]:
    """Calls that read or write text without an encoding."""

    def binary(call: ast.Call) -> bool:
        modes = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
        return any("b" in ast.unparse(mode) for mode in modes if isinstance(mode, ast.Constant | ast.IfExp))

    found = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        name = ast.unparse(call.func)
        if name in ("read_text", "results.read_text", "Image.open", "tarfile.open"):  # our own function; no text
            continue
        if re.search(r"(^|\.)(read_text|write_text)$", name):
            found.append(call)
        elif re.search(r"(^|\.)open$", name) and not binary(call):
            found.append(call)
    return found


def test_every_text_file_is_opened_with_an_encoding():
    files = [path for folder in ("book", "src", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in files
        for call in unnamed(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert len(files) > 100
    assert found == []
    wrong = "open(p)\nopen(p, 'a')\np.open()\np.read_text()\np.write_text(t)\nopen(p, mode='r')\n"
    right = (
        "open(p, 'rb')\np.open('ab' if size else 'wb')\nopen(p, encoding='utf-8')\np.write_text(t, encoding='utf-8')\n"
    )
    assert len(unnamed(ast.parse(wrong))) == 6
    assert unnamed(ast.parse(right)) == []
