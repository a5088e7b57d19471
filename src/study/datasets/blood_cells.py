"""BCCD: photographs of blood cells with a box around each red cell, white cell and platelet (Shenggan, 2017, MIT licence)."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from .download import damaged, fetch

URL = "https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/"
ARCHIVE = "master.zip"
CLASSES = ("RBC", "WBC", "Platelets")
PARTS = ("train", "val", "test")
#: SHA-256 over the files of a kind as they are read: name, zero byte, content. An archive's own hash may change.
DIGESTS = {
    "ImageSets/Main": "8195bac868541916a4170f6833a3e9da48618afe02cdf39a3c0b3881a869ce46",
    "Annotations": "342348a9bb4df15a0421bedd2aff7d0ed0d43662cdc262bd80987e9b4c7ea421",
    "JPEGImages": "97e7866a7d1c3fbdc406974ee56a69112790ded934ec61d586be9822683c4d23",
}


@dataclass(frozen=True, eq=False)
class Cells:
    """images: uint8 (n, 3, height, width). boxes: (n, m, 4), see `detection`; labels: (n, m), places in `CLASSES`, and -1
    where an image has fewer than m boxes."""

    images: Tensor
    boxes: Tensor
    labels: Tensor


def _boxes(raw: bytes) -> list[tuple[int, list[float]]]:
    """Class and box of each object of an annotation but those without an area, of which the set has two."""
    root = ElementTree.fromstring(raw)
    width, height = (int(root.find(f"size/{k}").text) for k in ("width", "height"))
    found = []
    for o in root.iter("object"):
        x0, y0, x1, y1 = (int(o.find(f"bndbox/{k}").text) for k in ("xmin", "ymin", "xmax", "ymax"))
        if x0 < x1 and y0 < y1:
            box = [x0 / width, y0 / height, x1 / width, y1 / height]
            found.append((CLASSES.index(o.find("name").text), box))
    return found


def _image(raw: bytes, size: tuple[int, int]) -> Tensor:
    from PIL import Image  # a dependency of the book, not of the package

    image = Image.open(io.BytesIO(raw)).convert("RGB").resize(size, Image.Resampling.BOX)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _reader(folder: str | Path | None, cache: str | Path | None, progress: bool) -> tuple[str, Callable[[str], bytes]]:
    """Where the set is, and a function from a file's name below its folder BCCD to its content."""
    if folder is None:
        path = fetch(URL, ARCHIVE, None, "bccd", cache, progress)
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise damaged(path, f"is no archive ({error}); remove it to download it again") from error
        return str(path), lambda name: archive.read(f"BCCD_Dataset-master/BCCD/{name}")
    bases = [Path(folder) / d for d in ("bccd/BCCD", "BCCD", ".")]
    base = next((b for b in bases if (b / "ImageSets").is_dir()), bases[0])
    return str(base), lambda name: (base / name).read_bytes()


def load(
    size: tuple[int, int] = (320, 240),
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
) -> tuple[Cells, Cells, Cells]:
    """205 training, 87 validation and 72 test images, reduced to `size` (width, height); the originals have 640 x 480.

    folder: read the set from here, or from BCCD or bccd/BCCD in it, instead of downloading it; cache, progress: as for
    `image_sets.load`. Needs Pillow. Raises FileNotFoundError saying which file is missing, ValueError naming a damaged one, or the
    kind of files where they are not the published ones, ConnectionError where a download fails.
    """
    place, read = _reader(folder, cache, progress)

    def take(kind: str, names: Iterable[str]) -> dict[str, bytes]:
        """The files of a kind as they are, once their hash is the published one: nothing is parsed before."""
        found, digest = {}, hashlib.sha256()
        for name in names:
            try:
                found[name] = read(f"{kind}/{name}")
            except (KeyError, FileNotFoundError) as error:
                raise FileNotFoundError(f"{place} does not hold BCCD: {kind}/{name} is missing") from error
            except (
                OSError,
                RuntimeError,
                NotImplementedError,
                zipfile.BadZipFile,
                zlib.error,
            ) as error:  # of an archive
                raise damaged(Path(place) / kind / name, f"cannot be read ({error})") from error
            digest.update(name.encode() + b"\0" + found[name])
        if digest.hexdigest() != DIGESTS[kind]:
            raise damaged(Path(place) / kind, f"has SHA256 {digest.hexdigest()}; expected {DIGESTS[kind]}")
        return found

    splits = [raw.decode().split() for raw in take("ImageSets/Main", [f"{part}.txt" for part in PARTS]).values()]
    names = sorted(name for names in splits for name in names)
    annotations = take("Annotations", [f"{name}.xml" for name in names])
    photographs = take("JPEGImages", [f"{name}.jpg" for name in names])
    seen = {name: (_image(photographs[f"{name}.jpg"], size), _boxes(annotations[f"{name}.xml"])) for name in names}
    most = max(len(boxes) for _, boxes in seen.values())
    found = []
    for names in splits:
        boxes, labels = torch.zeros(len(names), most, 4), torch.full((len(names), most), -1)
        for i, name in enumerate(names):
            for j, (label, box) in enumerate(seen[name][1]):
                labels[i, j], boxes[i, j] = label, torch.tensor(box)
        found.append(Cells(torch.stack([seen[name][0] for name in names]), boxes, labels))
    return tuple(found)
