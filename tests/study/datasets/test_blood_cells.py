"""BCCD: boxes and images of small sets in its layout, from a folder and an archive; damaged and missing files named."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers import real_data
from study.datasets import blood_cells

RED, BLUE = (200, 30, 60), (40, 50, 220)
#: name -> part, colours of the left and right half, objects
SET = {
    "a": ("train", (RED, RED), [("RBC", 0, 0, 64, 24), ("RBC", 5, 7, 5, 7), ("Platelets", 32, 12, 48, 36)]),
    "b": ("train", (BLUE, BLUE), []),
    "c": ("val", (RED, BLUE), [("WBC", 1, 2, 3, 4)]),
    "d": ("test", (BLUE, RED), [("RBC", 8, 8, 9, 9)]),
}


def files() -> dict[str, bytes]:
    found = {}
    for part in ("train", "val", "test"):
        found[f"ImageSets/Main/{part}.txt"] = "".join(f"{n}\n" for n, (p, *_) in SET.items() if p == part).encode()
    for name, (_, halves, objects) in SET.items():
        image, stream = Image.new("RGB", (64, 48), halves[0]), io.BytesIO()
        image.paste(halves[1], (32, 0, 64, 48))
        image.save(stream, "JPEG", quality=95)
        found[f"JPEGImages/{name}.jpg"] = stream.getvalue()
        parts = [
            f"<object><name>{c}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{u}</xmax><ymax>{v}</ymax></bndbox></object>"
            for c, x, y, u, v in objects
        ]
        size = "<size><width>64</width><height>48</height></size>"
        found[f"Annotations/{name}.xml"] = f"<annotation>{size}{''.join(parts)}</annotation>".encode()
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    written = files()
    for kind in blood_cells.DIGESTS:
        names = [f"ImageSets/Main/{p}.txt" for p in ("train", "val", "test")]
        names = names if kind == "ImageSets/Main" else sorted(n for n in written if n.startswith(kind))
        content = b"".join(n.rpartition("/")[2].encode() + b"\0" + written[n] for n in names)
        monkeypatch.setitem(blood_cells.DIGESTS, kind, hashlib.sha256(content).hexdigest())
    for name, content in written.items():
        path = tmp_path / "BCCD" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_boxes_are_shares_of_the_image_and_those_without_area_are_dropped(folder):
    train, val, test = blood_cells.load((32, 24), folder)
    assert train.labels.tolist() == [[0, 2], [-1, -1]]
    torch.testing.assert_close(train.boxes[0], torch.tensor([[0, 0, 1, 0.5], [0.5, 0.25, 0.75, 0.75]]))
    assert val.labels.tolist() == [[1, -1]] and test.labels.tolist() == [[0, -1]]
    torch.testing.assert_close(val.boxes[0, 0], torch.tensor([1 / 64, 2 / 48, 3 / 64, 4 / 48]))


def test_images_are_reduced_and_keep_colour_and_side(folder):
    train, val, test = blood_cells.load((32, 24), folder)
    assert train.images.shape == (2, 3, 24, 32) and train.images.dtype == torch.uint8
    for image, left, right in ((train.images[1], BLUE, BLUE), (val.images[0], RED, BLUE), (test.images[0], BLUE, RED)):
        for colour, x in ((left, 4), (right, 28)):
            assert (image[:, 12, x].int() - torch.tensor(colour)).abs().max() <= 4


def test_every_place_gives_the_same(folder, monkeypatch):
    expected = blood_cells.load((32, 24), folder)
    path = folder / "master.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files().items():
            archive.writestr(f"BCCD_Dataset-master/BCCD/{name}", content)
    asked = []
    monkeypatch.setattr(blood_cells, "fetch", lambda *how: asked.append(how) or path)
    places = [{"folder": folder / "BCCD"}, {"cache": "here", "progress": False}]
    (folder / "other" / "bccd").mkdir(parents=True)
    (folder / "other" / "bccd" / "BCCD").symlink_to(folder / "BCCD")
    for place in (*places, {"folder": str(folder / "other")}):
        for a, b in zip(blood_cells.load((32, 24), **place), expected, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels)
    address = "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/"
    assert asked == [(address, "master.zip", None, "bccd", "here", False)]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match="master.zip is no archive .*remove it"):
        blood_cells.load()


def replaced(old: bytes, new: bytes):
    return lambda content: content.replace(old, new)


def zipped(folder: Path) -> Path:
    path = folder / "master.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "BCCD").rglob("*.*")):
            archive.write(file, f"BCCD_Dataset-master/BCCD/{file.relative_to(folder / 'BCCD').as_posix()}")
    return path


@pytest.mark.parametrize("place", ["folder", "archive"])
@pytest.mark.parametrize(
    "name, change",
    [
        ("JPEGImages/b.jpg", lambda content: content[: len(content) // 2]),
        ("JPEGImages/b.jpg", lambda content: content + b"x"),
        ("Annotations/a.xml", lambda content: content[:-5]),
        ("Annotations/a.xml", replaced(b"Platelets", b"Plates")),
        ("Annotations/a.xml", replaced(b"<width>64</width>", b"")),
        ("Annotations/a.xml", replaced(b"64", b"65")),
        ("ImageSets/Main/val.txt", lambda content: b"d\n"),
        ("ImageSets/Main/val.txt", lambda content: b"../../c\n"),
        ("ImageSets/Main/val.txt", lambda content: b"\xff"),
    ],
)
def test_what_is_not_the_published_set_is_named_and_never_parsed(folder, monkeypatch, place, name, change):
    path, parsed = Path(folder) / "BCCD" / name, []
    path.write_bytes(change(path.read_bytes()))
    monkeypatch.setattr(blood_cells, "fetch", lambda *how: zipped(folder))
    for parser in ("_image", "_boxes") if name.startswith("ImageSets") else ({"J": "_image", "A": "_boxes"}[name[0]],):
        monkeypatch.setattr(blood_cells, parser, lambda *content: parsed.append(content))
    with pytest.raises(ValueError, match=rf"{name.rpartition('/')[0]} has SHA256 .* expected"):
        blood_cells.load((32, 24), folder if place == "folder" else None)
    assert parsed == []


def test_an_archive_with_a_damaged_file_names_it(folder, monkeypatch):
    path = zipped(folder)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("BCCD_Dataset-master/BCCD/JPEGImages/b.jpg").header_offset
    raw[start + 200] ^= 255
    path.write_bytes(raw)
    monkeypatch.setattr(blood_cells, "fetch", lambda *how: path)
    with pytest.raises(ValueError, match="JPEGImages/b.jpg cannot be read"):
        blood_cells.load((32, 24))


@pytest.mark.parametrize("name", ["JPEGImages/b.jpg", "Annotations/c.xml", "ImageSets/Main/test.txt"])
def test_missing_files_are_named(folder, name):
    (folder / "BCCD" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"does not hold BCCD: {name} is missing"):
        blood_cells.load((32, 24), folder)


def test_the_real_set_has_the_known_counts():
    with real_data() as folder:
        parts = blood_cells.load((64, 48), folder)
    assert [len(p.images) for p in parts] == [205, 87, 72]
    labels = torch.cat([p.labels.flatten() for p in parts])
    assert [int((labels == c).sum()) for c in range(3)] == [4155 - 2, 372, 361]
    for p in parts:
        boxes = p.boxes[p.labels >= 0]
        assert boxes.min() >= 0 and boxes.max() <= 1 and (boxes[:, :2] < boxes[:, 2:]).all()
