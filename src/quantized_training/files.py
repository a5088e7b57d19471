"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts beside `path` and move the file there: nobody ever sees half of it, and a failure leaves nothing.
    >>> path = Path(tempfile.mkdtemp(), "weights")
    >>> write_whole(path, b"whole ", b"or not at all")
    >>> path.read_bytes()
    b'whole or not at all'
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
