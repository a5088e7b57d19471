"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which is moved there: nobody ever sees half of it, and a failure leaves nothing."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts to one file, whole or not at all.
    >>> path = Path(tempfile.mkdtemp(), "weights")
    >>> write_whole(path, b"whole ", b"or not at all")
    >>> path.read_bytes()
    b'whole or not at all'
    """
    with _written_whole(path) as beside, open(beside, "wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
