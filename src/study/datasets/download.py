"""Downloads that go on where they broke off, checked by the published hashes."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_problem(content: bytes, published: str) -> str:
    """Empty where the content has the published hash, else what it has and what was expected."""
    algorithm, expected = published.split(":")
    found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
    return "" if found == expected else f"has {algorithm.upper()} {found}; expected {expected}"


def damaged(place: Path, problem: str) -> ValueError:
    return ValueError(f"{place} {problem}: the file is damaged or partial and was not used")


class Resume:
    """A downloader for pooch that goes on where the last attempt stopped, also where that was another program's run.

    What has arrived lies in `part` until it is complete; a server that cannot send the rest starts again. attempts: how
    often in a row a connection may bring nothing. Raises ConnectionError when it gives up; what has arrived is kept.
    """

    def __init__(self, part: Path, attempts: int = 3, timeout: float = 30.0, progress: bool = True) -> None:
        self.part, self.attempts, self.timeout, self.progress = Path(part), attempts, timeout, progress

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def __call__(self, url: str, output_file: str, pooch: object = None) -> None:
        """pooch's interface: put the content of `url` into `output_file`."""
        import requests
        from tqdm.auto import tqdm

        failures, problem, most = 0, None, self._size()
        with tqdm(
            desc=self.part.stem, unit="B", unit_scale=True, initial=self._size(), disable=not self.progress
        ) as bar:
            while failures < self.attempts:
                try:
                    if self._attempt(url, bar):
                        self.part.replace(output_file)
                        return
                    problem = "the connection ended early"
                except requests.HTTPError as error:
                    if error.response.status_code < 500:
                        raise ConnectionError(f"{url}: {error}") from error
                    problem = error
                except requests.RequestException as error:
                    problem = error
                failures = 0 if self._size() > most else failures + 1
                most = max(most, self._size())
        raise ConnectionError(
            f"{url} broke off after {self._size():,} bytes ({problem}); they are kept in {self.part}, call again to go on"
        )

    def _attempt(self, url: str, bar) -> bool:
        """One connection; True when the file is complete."""
        import requests

        size = self._size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]  # of the whole file
            if answer.status_code == 416:  # nothing lies beyond what is here
                if total == str(size):
                    return True
                self.part.unlink()
                return False
            answer.raise_for_status()
            if answer.status_code != 206:  # the whole file, from its start
                size, total = 0, answer.headers.get("Content-Length", "")
            bar.reset(int(total) if total.isdigit() else None)
            bar.update(size)
            answer.raw.enforce_content_length = False  # else the bytes before a cut are thrown away
            with self.part.open("ab" if size else "wb") as file:
                for chunk in answer.iter_content(2**16):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total.isdigit() and self._size() > int(total):  # not the rest that was asked for
            self.part.unlink()
            return False
        return not total.isdigit() or self._size() == int(total)


def fetch(url: str, file: str, published: str | None, name: str, cache: str | Path | None, progress: bool) -> Path:
    """Where the downloaded `url` + `file` lies, in the folder `name` of the cache (None: the user's cache folder).

    Downloaded unless it is there with the published hash. None: what is there is taken, the caller checks it.
    """
    import pooch
    from filelock import FileLock

    pooch.get_logger().setLevel("WARNING")  # the progress bar says enough
    folder = Path(cache or pooch.os_cache("quantized-training")) / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{file}.lock"):  # several processes may ask for the same file
        resume = Resume(folder / f"{file}.part", progress=progress)
        return Path(pooch.retrieve(url + file, published, fname=file, path=folder, downloader=resume))
