"""Task III's images: every layout read alike, damaged files named and refused, downloads that go on where they stopped."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import pickle
import re
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from helpers import real_data
from study.datasets import download, image_sets

RNG = np.random.default_rng(0)
SIZES = {"train": 20, "test": 10}


def draw(channels: int = 3, size: int = 32, classes: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images and labels of a small set, part by part."""
    return {
        part: (RNG.integers(0, 256, (n, channels, size, size), np.uint8), RNG.permutation(n) % classes)
        for part, n in SIZES.items()
    }


def record_file(x: np.ndarray, y: np.ndarray, coarse: bool = False) -> bytes:
    labels = bytes([7]) if coarse else b""
    return b"".join(labels + bytes([label]) + image.tobytes() for image, label in zip(x, y, strict=True))


def batch_file(x: np.ndarray, y: np.ndarray, key: bytes) -> bytes:
    return pickle.dumps({b"data": x.reshape(len(x), -1), key: y.tolist()}, protocol=2)


def idx_file(a: np.ndarray) -> bytes:
    return bytes([0, 0, 8, a.ndim]) + b"".join(n.to_bytes(4, "big") for n in a.shape) + a.astype(np.uint8).tobytes()


def files_of(name: str, layout: int, data: dict) -> dict[str, bytes]:
    """What the files of a layout contain, five training files for CIFAR-10."""
    if name == "fashion-mnist":
        parts = zip(("train", "t10k"), ("train", "test"), strict=True)
        return {
            f"{stem}-{kind}": idx_file(a)
            for stem, part in parts
            for kind, a in (("images-idx3-ubyte", data[part][0][:, 0]), ("labels-idx1-ubyte", data[part][1]))
        }
    chosen = image_sets.SOURCES[name].layouts[layout]
    pieces = {}
    for part, files in (("train", chosen.train), ("test", chosen.test)):
        for file, i in zip(files, np.array_split(np.arange(SIZES[part]), len(files)), strict=True):
            pieces[file] = data[part][0][i], data[part][1][i]
    if layout == 0:
        return {file: record_file(x, y, name == "cifar-100") for file, (x, y) in pieces.items()}
    key = b"labels" if name == "cifar-10" else b"fine_labels"
    return {file: batch_file(x, y, key) for file, (x, y) in pieces.items()}


def publish(monkeypatch, name: str, layout: int, files: dict[str, bytes], **changes) -> image_sets.Layout:
    """Make these files the published ones."""
    source = image_sets.SOURCES[name]
    published = {file: "sha256:" + hashlib.sha256(content).hexdigest() for file, content in files.items()}
    changed = replace(source.layouts[layout], published=published, **changes)
    layouts = source.layouts[:layout] + (changed,) + source.layouts[layout + 1 :]
    monkeypatch.setitem(image_sets.SOURCES, name, replace(source, layouts=layouts))
    return changed


def write(folder: Path, files: dict[str, bytes], zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / (f"{file}.gz" if zipped else file)).write_bytes(gzip.compress(content) if zipped else content)


def tar_of(layout: image_sets.Layout, files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{layout.folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def assert_is(images: image_sets.Images, data: dict) -> None:
    for part in SIZES:
        x, y = getattr(images, f"{part}_x"), getattr(images, f"{part}_y")
        assert x.dtype == torch.uint8 and y.dtype == torch.int64
        np.testing.assert_array_equal(x.numpy(), data[part][0])
        np.testing.assert_array_equal(y.numpy(), data[part][1])


CASES = [("cifar-10", 0), ("cifar-10", 1), ("cifar-100", 0), ("cifar-100", 1), ("fashion-mnist", 0)]


def small(name: str) -> dict:
    return draw(1, 28) if name == "fashion-mnist" else draw(classes=len(image_sets.SOURCES[name].classes))


@pytest.mark.parametrize("where", ["plain", "zipped", "unpacked", "archive"])
@pytest.mark.parametrize("name, layout", CASES)
def test_every_layout_gives_the_same_images(monkeypatch, tmp_path, name, layout, where):
    data = small(name)
    files = files_of(name, layout, data)
    chosen = publish(monkeypatch, name, layout, files)
    if where == "archive":
        if name == "fashion-mnist":
            pytest.skip("its archives are the single files")
        tar = tar_of(chosen, files)
        (archive,) = chosen.archives
        publish(monkeypatch, name, layout, files, archives={archive: f"md5:{hashlib.md5(tar).hexdigest()}"})
        write(tmp_path / name, {archive: tar})
    else:
        write(tmp_path / chosen.folder if where == "unpacked" else tmp_path, files, where == "zipped")
    images = image_sets.load(name, tmp_path)
    assert_is(images, data)
    assert images.note == "" and images.classes == image_sets.SOURCES[name].classes


@pytest.mark.parametrize("name, layout", [c for c in CASES if c not in [("cifar-10", 0), ("cifar-100", 0)]])
def test_one_changed_byte_is_named_and_refused(monkeypatch, tmp_path, name, layout):
    files = files_of(name, layout, small(name))
    publish(monkeypatch, name, layout, files)
    file, content = list(files.items())[-1]
    write(tmp_path, files | {file: content[:-1] + bytes([content[-1] ^ 1])})
    with pytest.raises(ValueError, match=f"{file} has SHA256 .* expected .* not used"):
        image_sets.load(name, tmp_path)


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    write(tmp_path, dict.fromkeys(image_sets.SOURCES["cifar-10"].layouts[1].files, pickle.dumps(Bomb())))
    with pytest.raises(ValueError, match="data_batch_1 has MD5"):
        image_sets.load("cifar-10", tmp_path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
def test_records_other_than_the_published_ones_are_noted(tmp_path, name):
    data = small(name)
    files = files_of(name, 0, data)
    write(tmp_path, files)
    images = image_sets.load(name, tmp_path)
    assert_is(images, data)
    assert images.note == f"{name}: all files differ from the published ones."


def test_only_the_files_that_differ_are_noted(monkeypatch, tmp_path):
    files = files_of("cifar-10", 0, small("cifar-10"))
    publish(monkeypatch, "cifar-10", 0, files)
    write(tmp_path, files | {"data_batch_3.bin": files["data_batch_3.bin"][: 3 * 3073]})
    images = image_sets.load("cifar-10", tmp_path)
    assert "data_batch_3.bin" in images.note and "data_batch_2.bin" not in images.note
    assert len(images.train_x) == 19


@pytest.mark.parametrize("content", [b"", b"\1" * 3072, b"\1" * 3074])
def test_partial_records_are_named_and_refused(tmp_path, content):
    files = files_of("cifar-10", 0, small("cifar-10"))
    write(tmp_path, files | {"data_batch_2.bin": content})
    with pytest.raises(ValueError, match=f"data_batch_2.bin has {len(content):,} bytes; expected .* 3,073"):
        image_sets.load("cifar-10", tmp_path)


def test_a_label_out_of_range_is_named_and_refused(tmp_path):
    files = files_of("cifar-10", 0, small("cifar-10"))
    write(tmp_path, files | {"test_batch.bin": bytes([10]) + files["test_batch.bin"][1:]})
    with pytest.raises(ValueError, match="test_batch.bin .* labels up to 10"):
        image_sets.load("cifar-10", tmp_path)


def test_partial_gzip_and_archive_are_named_and_refused(monkeypatch, tmp_path):
    files = files_of("fashion-mnist", 0, small("fashion-mnist"))
    publish(monkeypatch, "fashion-mnist", 0, files)
    write(tmp_path, files, zipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz of .* cannot be decompressed"):
        image_sets.load("fashion-mnist", tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cifar-10-python.tar.gz has MD5 .* expected c58f30108f718f92721af3b95e74349a"):
        image_sets.load("cifar-10", tmp_path)


def test_idx_size_follows_its_header():
    x, y = idx_file(np.zeros((4, 28, 28))), idx_file(np.zeros(4))
    image_sets._idx([x, y], ["images", "labels"])
    for contents in ([x[:-1], y], [x + b"\0", y], [y, y], [x, y[:-1]]):
        with pytest.raises(ValueError, match="expected an idx file"):
            image_sets._idx(contents, ["images", "labels"])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not hold cifar-100: expected train.bin"):
        image_sets.load("cifar-100", tmp_path)
    files = files_of("cifar-10", 0, small("cifar-10"))
    del files["data_batch_4.bin"], files["test_batch.bin"]
    write(tmp_path, files)
    with pytest.raises(FileNotFoundError, match="but not data_batch_4.bin, test_batch.bin"):
        image_sets.load("cifar-10", tmp_path)
    with pytest.raises(ValueError, match="'digits', 'cifar-10', 'cifar-100', 'fashion-mnist'"):
        image_sets.load("imagenet")
    with pytest.raises(ValueError, match="read from no folder"):
        image_sets.load("digits", tmp_path)


@pytest.mark.parametrize("layout", [0, 1])
def test_images_that_are_not_exact_are_found_again(monkeypatch, tmp_path, layout):
    data = small("cifar-10")
    files = files_of("cifar-10", layout, data)
    publish(monkeypatch, "cifar-10", layout, files)
    listed = "file,index_in_file\ndata_batch_3.bin,1\ntest_batch.bin,9\ndata_batch_1.bin,0\n"
    write(tmp_path, files | {"not_exact.csv": listed.encode()})
    images = image_sets.load("cifar-10", tmp_path)
    assert images.train_inexact.tolist() == [0, 4 + 4 + 1] and images.test_inexact.tolist() == [9]
    assert "3 of the 30 images are not exact (2 training, 1 test; " in images.note
    for i in (int(data["train"][1][0]), int(data["train"][1][9]), int(data["test"][1][9])):
        assert image_sets.CIFAR_10[i] in images.note
    smaller = images.subset(10)
    assert [smaller.train_x[i].tolist() for i in smaller.train_inexact] == [
        data["train"][0][i].tolist() for i in (0, 9) if i in image_sets._first_of_each(images.train_y, 10, 10, "train")
    ]
    (tmp_path / "not_exact.csv").write_text("file,index_in_file\ndata_batch_3.bin,4\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not_exact.csv.*does not name an image"):
        image_sets.load("cifar-10", tmp_path)


def test_digits_are_scikit_learns():
    images, data = image_sets.load(), load_digits()
    x, y = torch.cat([images.train_x, images.test_x]), torch.cat([images.train_y, images.test_y])
    assert x.shape == (1797, 1, 8, 8) and len(images.test_x) == 360 and x.dtype == torch.uint8
    np.testing.assert_array_equal(np.rint(x[:, 0].double().numpy() * 16 / 255), data.images)
    np.testing.assert_array_equal(y.numpy(), data.target)
    assert images.classes == tuple("0123456789") and images.note == "" and int(x.max()) == 255


def test_mean_and_std_are_those_of_the_training_images(tmp_path):
    data = small("cifar-10")
    write(tmp_path, files_of("cifar-10", 0, data))
    images = image_sets.load("cifar-10", tmp_path)
    pixels = data["train"][0].transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(images.mean.numpy(), pixels.mean(1), rtol=1e-6)
    np.testing.assert_allclose(images.std.numpy(), pixels.std(1), rtol=1e-6)
    assert images.mean.dtype == torch.float32


def test_subset_takes_the_first_of_each_class():
    images = image_sets.load()
    part = images.subset(50, 20)
    for c in range(10):
        torch.testing.assert_close(part.train_x[part.train_y == c], images.train_x[images.train_y == c][:5])
        torch.testing.assert_close(part.test_x[part.test_y == c], images.test_x[images.test_y == c][:2])
    assert len(part.train_x) == 50 and len(part.test_y) == 20
    torch.testing.assert_close(images.subset(50).test_x, images.test_x)
    rows = image_sets._first_of_each(images.train_y, 50, 10, "train")
    assert rows.tolist() == sorted(rows.tolist())
    torch.testing.assert_close(part.train_x, images.train_x[rows])
    for n in (0, 55, 1440):
        with pytest.raises(ValueError, match=f"train={n}: allowed are multiples of the 10 classes from 10 to 1410"):
            images.subset(n)


def test_class_names():
    for name, n in (("cifar-10", 10), ("cifar-100", 100), ("fashion-mnist", 10)):
        assert len(set(image_sets.SOURCES[name].classes)) == n
    assert list(image_sets.CIFAR_100) == sorted(image_sets.CIFAR_100)


# Downloads


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; cuts each connection after `cut` bytes of its body (None: never); ranges: answers Range requests;
    wrong: sends the whole file where the rest is asked for."""

    content, cut, ranges, status, wrong = b"", None, True, 200, False
    daemon_threads = True

    def handle_error(self, request, address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        content = server.content[self.path] if isinstance(server.content, dict) else server.content
        start = int(self.headers["Range"][6:-1]) if server.ranges and self.headers.get("Range") else 0
        if server.status != 200 or (start and start >= len(content)):
            self.send_response(server.status if server.status != 200 else 416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - (0 if server.wrong else start)))
        self.end_headers()
        self.wfile.write(content[0 if server.wrong else start :][: server.cut])
        self.close_connection = True


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


CONTENT = RNG.bytes(250_000)


@pytest.mark.parametrize("before", [0, 1, 130_000])
def test_download_goes_on_where_the_connection_was_cut(server, tmp_path, before):
    server.content, server.cut = CONTENT, 100_000
    part, out = tmp_path / "a.part", tmp_path / "a"
    if before:
        part.write_bytes(CONTENT[:before])
    download.Resume(part, progress=False)(server.url, str(out))
    assert out.read_bytes() == CONTENT and not part.exists()
    starts = list(range(before, len(CONTENT), 100_000))
    assert [r for _, r in server.asked] == [f"bytes={s}-" if s else None for s in starts]


def test_download_starts_again_where_the_server_knows_no_ranges(server, tmp_path):
    server.content, server.ranges = CONTENT, False
    part, out = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(b"x" * 1000)
    download.Resume(part, progress=False)(server.url, str(out))
    assert out.read_bytes() == CONTENT and len(server.asked) == 1


def test_download_starts_again_where_the_server_sends_something_else(server, tmp_path):
    server.content, server.wrong = CONTENT, True
    part, out = tmp_path / "a.part", tmp_path / "a"
    part.write_bytes(CONTENT[:1000])
    download.Resume(part, progress=False)(server.url, str(out))
    assert out.read_bytes() == CONTENT and [r for _, r in server.asked] == ["bytes=1000-", None]


def test_download_that_is_complete_or_too_long_already(server, tmp_path):
    server.content = CONTENT
    for extra, requests in ((b"", 1), (b"too much", 2)):
        part, out = tmp_path / "a.part", tmp_path / "a"
        part.write_bytes(CONTENT + extra)
        server.asked.clear()
        download.Resume(part, progress=False)(server.url, str(out))
        assert out.read_bytes() == CONTENT and len(server.asked) == requests


def test_download_gives_up_and_keeps_what_it_has(server, tmp_path):
    server.content, server.cut, server.ranges = CONTENT, 100_000, False
    part, out = tmp_path / "a.part", tmp_path / "a"
    with pytest.raises(ConnectionError, match=r"broke off after 100,000 bytes .* kept in .*a\.part"):
        download.Resume(part, attempts=2, progress=False)(server.url, str(out))
    assert part.read_bytes() == CONTENT[:100_000] and not out.exists() and len(server.asked) == 3
    server.status = 404
    server.asked.clear()
    with pytest.raises(ConnectionError, match="404"):
        download.Resume(part, progress=False)(server.url, str(out))
    assert len(server.asked) == 1 and part.exists()
    server.status = 503
    server.asked.clear()
    with pytest.raises(ConnectionError, match="503"):
        download.Resume(part, attempts=2, progress=False)(server.url, str(out))
    assert len(server.asked) == 2


def test_progress_bar_counts_what_was_there_before(server, tmp_path, capsys):
    server.content = CONTENT
    part = tmp_path / "images.tar.gz.part"
    part.write_bytes(CONTENT[:125_000])
    download.Resume(part)(server.url, str(tmp_path / "a"))
    shown = capsys.readouterr().err
    assert "images.tar.gz" in shown and "250k/250k" in shown


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100", "fashion-mnist"])
def test_a_set_is_downloaded_once_and_checked_at_each_use(monkeypatch, server, tmp_path, name):
    data = small(name)
    files = files_of(name, 0, data)
    chosen = publish(monkeypatch, name, 0, files)
    if name == "fashion-mnist":
        archives = {f"{file}.gz": gzip.compress(content) for file, content in files.items()}
    else:
        archives = {next(iter(chosen.archives)): tar_of(chosen, files)}
    hashes = {file: f"md5:{hashlib.md5(content).hexdigest()}" for file, content in archives.items()}
    publish(monkeypatch, name, 0, files, archives=hashes)
    monkeypatch.setitem(image_sets.SOURCES, name, replace(image_sets.SOURCES[name], url=server.url))
    server.content, server.cut = {f"/{file}": content for file, content in archives.items()}, 20_000
    for _ in range(2):
        assert_is(image_sets.load(name, cache=tmp_path, progress=False), data)
        downloaded = len(server.asked)
    assert downloaded == sum(-(-len(content) // 20_000) for content in archives.values())
    damaged = tmp_path / name / next(iter(archives))
    damaged.write_bytes(damaged.read_bytes()[:-1])  # fetched again
    assert_is(image_sets.load(name, cache=tmp_path, progress=False), data)
    assert len(server.asked) > downloaded
    damaged.unlink()
    server.content[f"/{damaged.name}"] = b"something else"
    with pytest.raises(ValueError, match=f"{damaged.name}.* expected {hashes[damaged.name]}"):
        image_sets.load(name, cache=tmp_path, progress=False)
    assert not damaged.exists()


def test_two_at_once_download_once(monkeypatch, server, tmp_path):
    data = small("cifar-10")
    files = files_of("cifar-10", 0, data)
    tar = tar_of(publish(monkeypatch, "cifar-10", 0, files), files)
    publish(monkeypatch, "cifar-10", 0, files, archives={"a.tar.gz": f"md5:{hashlib.md5(tar).hexdigest()}"})
    monkeypatch.setitem(image_sets.SOURCES, "cifar-10", replace(image_sets.SOURCES["cifar-10"], url=server.url))
    server.content, server.cut = tar, len(tar) // 3
    with ThreadPoolExecutor(4) as pool:
        for images in pool.map(lambda _: image_sets.load("cifar-10", cache=tmp_path, progress=False), range(4)):
            assert_is(images, data)
    assert len(server.asked) in (3, 4)  # the pieces


# Real images, where a folder with them is named


@pytest.mark.parametrize(
    "name, shape, mean, std",
    [
        ("cifar-10", (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("cifar-100", (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("fashion-mnist", (1, 28, 28), (0.2860,), (0.3530,)),
    ],
)
def test_real_sets_have_the_known_moments(name, shape, mean, std):
    with real_data() as folder:
        images = image_sets.load(name, folder)
    train = {"fashion-mnist": 60_000}.get(name, 50_000)
    assert images.train_x.shape == (train, *shape) and images.test_x.shape == (10_000, *shape)
    classes = len(images.classes)
    assert torch.bincount(images.train_y).tolist() == [train // classes] * classes
    assert torch.bincount(images.test_y).tolist() == [10_000 // classes] * classes
    np.testing.assert_allclose(images.mean.numpy(), mean, atol=1e-4)
    np.testing.assert_allclose(images.std.numpy(), std, atol=1e-4)


def test_every_test_skips_what_does_not_lie_in_the_folder_with_real_data():
    """A folder may hold some sets and not others: tests ask for it by `helpers.real_data` alone."""
    tests = Path(__file__).parents[2]
    asks = re.compile(r"environ\W+(?:get\W+)?[\"']QT_DATA|[\"']QT_DATA[\"'] (?:not )?in")
    assert [
        str(p.relative_to(tests)) for p in sorted(tests.rglob("*.py")) if asks.search(p.read_text(encoding="utf-8"))
    ] == ["helpers.py"]
