"""Task III: small images with labels, from five public sets behind one interface.

`load("digits")` works offline and at once; "mnist", "fashion-mnist", "cifar-10" and "cifar-100" are downloaded, or read from a folder.
"""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import tarfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .download import damaged, fetch, hash_problem

NONE = torch.empty(0, dtype=torch.int64)

CIFAR_10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
CIFAR_100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm""".split()
)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images: x uint8 (n, channels, height, width), 0 black and 255 full, labels y int64 (n,).

    origin: in what the files read differ from the published ones, empty where they do not.
    train_inexact, test_inexact: indices of images that a list in the folder calls not exact.
    """

    name: str
    classes: tuple[str, ...]
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    origin: str = ""
    train_inexact: Tensor = field(default=NONE)
    test_inexact: Tensor = field(default=NONE)

    @property
    def note(self) -> str:
        """What belongs beside every number measured on these images; empty where there is nothing to say."""
        inexact = torch.cat([self.train_y[self.train_inexact], self.test_y[self.test_inexact]])
        notes = [self.origin] if self.origin else []
        if len(inexact):
            counts = torch.bincount(inexact, minlength=len(self.classes)).tolist()
            which = ", ".join(f"{n} {c}" for n, c in sorted(zip(counts, self.classes, strict=True), reverse=True) if n)
            notes.append(
                f"{len(inexact)} of the {len(self.train_y) + len(self.test_y):,} images are not exact "
                f"({len(self.train_inexact)} training, {len(self.test_inexact)} test; {which})"
            )
        return f"{self.name}: {'; '.join(notes)}." if notes else ""

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = [torch.bincount(self.train_x[:, c].flatten(), minlength=256) for c in range(self.train_x.shape[1])]
        share = torch.stack(counts).double() / (self.train_x.numel() // self.train_x.shape[1])
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(1)
        return mean.float(), variance.sqrt().float()

    @property
    def mean(self) -> Tensor:
        """Mean of x / 255 over the training images: (channels,)."""
        return self._moments[0]

    @property
    def std(self) -> Tensor:
        """Standard deviation of x / 255 over the training images: (channels,)."""
        return self._moments[1]

    def subset(self, train: int, test: int | None = None) -> Images:
        """The first images of each class, equally many, in their order: `train` and `test` images in all (None: every one).

        Raises ValueError where a number is no multiple of the number of classes or a class has too few images.
        """
        kept = {}
        for part, n in (("train", train), ("test", test)):
            y, inexact = getattr(self, f"{part}_y"), getattr(self, f"{part}_inexact")
            keep = torch.arange(len(y)) if n is None else _first_of_each(y, n, len(self.classes), part)
            kept |= {f"{part}_x": getattr(self, f"{part}_x")[keep], f"{part}_y": y[keep]}
            kept[f"{part}_inexact"] = torch.isin(keep, inexact).nonzero()[:, 0]
        return replace(self, **kept)


def _first_of_each(y: Tensor, n: int, classes: int, part: str) -> Tensor:
    """Indices of the first n / classes labels of each class, increasing."""
    fewest = int(torch.bincount(y, minlength=classes).min())
    if not 0 < n <= fewest * classes or n % classes:
        raise ValueError(
            f"{part}={n}: allowed are multiples of the {classes} classes from {classes} to {fewest * classes}"
        )
    return torch.cat([(y == c).nonzero()[: n // classes, 0] for c in range(classes)]).sort().values


# What lies in a folder


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a set lie in a folder.

    folder: what it is called when unpacked. train, test: the files of the two parts. read: (contents of the files of one
    part, where they lie) -> images and labels, in pieces, one for each of the first files. published: file -> hash of its content, decompressed. archives: what is
    downloaded, a tar of all files or one .gz for each -> its hash. subsets: a file with another hash than the published one
    is accepted and noted, because people cut these files down to subsets.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[list[bytes], list[str]], list[tuple[np.ndarray, np.ndarray]]]
    published: dict[str, str]
    archives: dict[str, str]
    subsets: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.test


@dataclass(frozen=True)
class Source:
    """A set: its class names, the address of its downloads (the archives of the first layout), its layouts in a folder."""

    classes: tuple[str, ...]
    url: str
    layouts: tuple[Layout, ...]


def _cifar_records(label_bytes: int):
    """Reader of CIFAR's binary layout: per image 1 label byte (CIFAR-100: a coarse one before it), then 3 planes of 32 x 32."""
    record = label_bytes + 3072

    def read(contents: list[bytes], places: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        for raw, place in zip(contents, places, strict=True):
            if not raw or len(raw) % record:
                raise ValueError(
                    f"{place} has {len(raw):,} bytes; expected whole records of {record:,} bytes: the file is damaged or partial"
                )
        records = [np.frombuffer(raw, np.uint8).reshape(-1, record) for raw in contents]
        return [(r[:, label_bytes:].reshape(-1, 3, 32, 32), r[:, label_bytes - 1]) for r in records]

    return read


def _cifar_batches(key: bytes):
    """Reader of CIFAR's Python layout. Only ever called on files whose hash is the published one: pickles run code."""

    def read(contents: list[bytes], places: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about pickles of its old versions
            batches = [pickle.loads(raw, encoding="bytes") for raw in contents]
        return [(b[b"data"].reshape(-1, 3, 32, 32), np.asarray(b[key])) for b in batches]

    return read


def _idx(contents: list[bytes], places: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reader of MNIST's idx layout: images and labels, each 0 0 8 (bytes), the number of axes, their lengths, the data."""
    arrays = []
    for raw, place, axes in zip(contents, places, (3, 1), strict=True):
        shape = np.frombuffer(raw[4 : 4 + 4 * axes], ">i4")
        if raw[:4] != bytes([0, 0, 8, axes]) or len(raw) != 4 + 4 * axes + shape.prod():
            raise ValueError(
                f"{place} has {len(raw):,} bytes and starts with {raw[:4].hex()}; expected an idx file with {axes} axes of "
                "bytes whose size is that of its header: the file is damaged or partial"
            )
        arrays.append(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape))
    return [(arrays[0][:, None], arrays[1])]


# Hashes: archives and idx.gz files as their authors print them; single files of CIFAR as MXNet (.bin) and torchvision (Python)
# check them; idx files: the content of the published .gz.
TORONTO = "https://www.cs.toronto.edu/~kriz/"
SOURCES = {
    "cifar-10": Source(
        CIFAR_10,
        TORONTO,
        (
            Layout(
                "cifar-10-batches-bin",
                tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
                ("test_batch.bin",),
                _cifar_records(1),
                {
                    "data_batch_1.bin": "sha1:aadd24acce27caa71bf4b10992e9e7b2d74c2540",
                    "data_batch_2.bin": "sha1:c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
                    "data_batch_3.bin": "sha1:1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
                    "data_batch_4.bin": "sha1:aab85764eb3584312d3c7f65fd2fd016e36a258e",
                    "data_batch_5.bin": "sha1:26e2849e66a845b7f1e4614ae70f4889ae604628",
                    "test_batch.bin": "sha1:67eb016db431130d61cd03c7ad570b013799c88c",
                },
                {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
                subsets=True,
            ),
            Layout(
                "cifar-10-batches-py",
                tuple(f"data_batch_{i}" for i in range(1, 6)),
                ("test_batch",),
                _cifar_batches(b"labels"),
                {
                    "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
                    "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
                    "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
                    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
                    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
                    "test_batch": "md5:40351d587109b95175f43aff81a1287e",
                },
                {"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
            ),
        ),
    ),
    "cifar-100": Source(
        CIFAR_100,
        TORONTO,
        (
            Layout(
                "cifar-100-binary",
                ("train.bin",),
                ("test.bin",),
                _cifar_records(2),
                {
                    "train.bin": "sha1:e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
                    "test.bin": "sha1:8fb6623e830365ff53cf14adec797474f5478006",
                },
                {"cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8"},
                subsets=True,
            ),
            Layout(
                "cifar-100-python",
                ("train",),
                ("test",),
                _cifar_batches(b"fine_labels"),
                {"train": "md5:16019d7e3df5f24257cddd939b257f8d", "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"},
                {"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"},
            ),
        ),
    ),
    "fashion-mnist": Source(
        FASHION,
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        (
            Layout(
                "FashionMNIST/raw",
                ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
                ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
                _idx,
                {
                    "train-images-idx3-ubyte": "md5:f4a8712d7a061bf5bd6d2ca38dc4d50a",
                    "train-labels-idx1-ubyte": "md5:9018921c3c673c538a1fc5bad174d6f9",
                    "t10k-images-idx3-ubyte": "md5:8181f5470baa50b63fa0f6fddb340f0a",
                    "t10k-labels-idx1-ubyte": "md5:15d484375f8d13e6eb1aabb0c3f46965",
                },
                {
                    "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
                    "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
                    "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
                },
            ),
        ),
    ),
    "mnist": Source(
        tuple("0123456789"),
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            Layout(
                "MNIST/raw",
                ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
                ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
                _idx,
                {
                    "train-images-idx3-ubyte": "md5:6bbc9ace898e44ae57da46a324031adb",
                    "train-labels-idx1-ubyte": "md5:a25bea736e30d166cdddb491f175f624",
                    "t10k-images-idx3-ubyte": "md5:2646ac647ad5339dbf082846283269ea",
                    "t10k-labels-idx1-ubyte": "md5:27ae3e4e09519cfbb04c329615203637",
                },
                {
                    "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
                    "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
                    "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
                },
            ),
        ),
    ),
}
NAMES = ("digits", *SOURCES)


def _lies_in(base: Path, layout: Layout) -> dict[str, Path]:
    """For each file of the layout that lies in the folder, plain, gzipped or in an archive: where."""
    tars = [base / a for a in layout.archives if a.endswith(".tar.gz") and (base / a).is_file()]
    found = {}
    for file in layout.files:
        places = [p for p in (base / file, base / f"{file}.gz", *tars) if p.is_file()]
        if places:
            found[file] = places[0]
    return found


def _contents(places: dict[str, Path], layout: Layout) -> dict[str, bytes]:
    """The decompressed content of each file. Raises ValueError naming a file that is damaged."""
    contents: dict[str, bytes] = {}
    for place in dict.fromkeys(places.values()):
        raw = place.read_bytes()
        files = [file for file, p in places.items() if p == place]
        try:
            if place.name.endswith(".tar.gz"):
                if problem := hash_problem(raw, layout.archives[place.name]):
                    raise damaged(place, problem)
                with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                    contents |= {file: tar.extractfile(f"{layout.folder}/{file}").read() for file in files}
            else:
                contents[files[0]] = gzip.decompress(raw) if place.suffix == ".gz" else raw
        except (EOFError, OSError, zlib.error) as error:
            raise damaged(place, f"of {len(raw):,} bytes cannot be decompressed ({error})") from error
    return contents


def _not_exact(base: Path, layout: Layout, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Indices into the two parts of the images that not_exact.csv (columns file, index_in_file) lists, where there is one."""
    path = base / "not_exact.csv"
    indices: dict[str, list[int]] = {"train": [], "test": []}
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    files = {Path(file).stem: file for file in layout.files}  # the list may name the files of the other layout
    for row in rows:
        try:
            file, i = files[Path(row["file"]).stem], int(row["index_in_file"])
            part = "train" if file in layout.train else "test"
            same = layout.train if part == "train" else layout.test
            if not 0 <= i < sizes[file]:  # a file of labels has no size
                raise ValueError
        except (KeyError, ValueError):
            raise ValueError(f"{path}: {row} does not name an image of {', '.join(layout.files)}") from None
        indices[part].append(i + sum(sizes[f] for f in same[: same.index(file)]))
    return {part: torch.tensor(sorted(i), dtype=torch.int64) for part, i in indices.items()}


def _read(name: str, folder: Path) -> Images:
    """The set from the first complete layout in the folder, or in a folder in it that is called as when unpacked."""
    source = SOURCES[name]
    partial = ""
    for layout in source.layouts:
        for base in dict.fromkeys(folder / d for d in (".", name, layout.folder, f"{name}/{layout.folder}")):
            places = _lies_in(base, layout)
            if len(places) == len(layout.files):
                return _read_layout(name, base, layout, places)
            if places:
                missing = ", ".join(file for file in layout.files if file not in places)
                partial = f"; {base} has {', '.join(places)}, but not {missing}"
    layouts = " or ".join(f"{layout.files[0]} ... {layout.files[-1]}" for layout in source.layouts)
    archives = " or ".join(a for layout in source.layouts for a in layout.archives if a.endswith(".tar.gz"))
    expected = f"{layouts}{' or ' + archives if archives else ''}"
    raise FileNotFoundError(f"{folder} does not hold {name}: expected {expected}{partial}")


def _read_layout(name: str, base: Path, layout: Layout, places: dict[str, Path]) -> Images:
    contents = _contents(places, layout)
    different = []
    for file, content in contents.items():
        if problem := hash_problem(content, layout.published[file]):
            if not layout.subsets:
                raise damaged(places[file], problem)
            different.append(file)
    parts, sizes = {}, {}
    classes = SOURCES[name].classes
    for part, files in (("train", layout.train), ("test", layout.test)):
        pieces = layout.read([contents[f] for f in files], [str(places[f]) for f in files])
        for file, (x, y) in zip(files, pieces, strict=False):
            if len(x) != len(y) or y.max() >= len(classes):
                raise damaged(places[file], f"gives {len(x)} images and {len(y)} labels up to {y.max()}")
            sizes[file] = len(x)
        x, y = map(np.concatenate, zip(*pieces, strict=True))
        parts |= {f"{part}_x": torch.from_numpy(x), f"{part}_y": torch.from_numpy(y.astype(np.int64))}
    inexact = _not_exact(base, layout, sizes)
    which = "all files" if len(different) == len(layout.files) else f"of the files {', '.join(different)}"
    origin = f"{which} differ from the published ones" if different else ""
    return Images(name, classes, origin=origin, train_inexact=inexact["train"], test_inexact=inexact["test"], **parts)


def _digits() -> Images:
    """The 8 x 8 digits that come with scikit-learn; the last 360 of them, in the order of the file, are for testing.

    They are not shuffled first: neighbours in the file resemble each other, which makes a random split much easier.
    """
    from sklearn.datasets import load_digits  # a dependency of the book, not of the package

    data = load_digits()
    x = torch.from_numpy((data.images * 255 / 16).round().astype(np.uint8))[:, None]  # 17 shades of grey
    y = torch.from_numpy(data.target.astype(np.int64))
    return Images("digits", tuple(map(str, data.target_names)), x[:-360], y[:-360], x[-360:], y[-360:])


def load(
    name: str = "digits", folder: str | Path | None = None, cache: str | Path | None = None, progress: bool = True
) -> Images:
    """A set of images: "digits" (offline), "fashion-mnist", "cifar-10" or "cifar-100".

    folder: read the set from here instead of downloading it: CIFAR's .bin files or Python batches, Fashion-MNIST's idx files
    gzipped or not, or the archive, in the folder or in one of the usual name in it. cache: where downloads are kept, by
    default the user's cache folder. progress: show a bar while downloading.
    Every file is checked. Raises ValueError naming a damaged one and what was expected; only CIFAR's .bin files of a folder
    may differ from the published ones, which `Images.note` says. Raises FileNotFoundError saying which files are missing,
    ConnectionError where a download fails, ValueError for an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r}: allowed are {', '.join(map(repr, NAMES))}")
    if name == "digits":
        if folder is not None:
            raise ValueError(f"folder={str(folder)!r}: the digits come with scikit-learn, they are read from no folder")
        return _digits()
    if folder is not None:
        return _read(name, Path(folder))
    source = SOURCES[name]
    places = [fetch(source.url, file, h, name, cache, progress) for file, h in source.layouts[0].archives.items()]
    return _read(name, places[0].parent)
