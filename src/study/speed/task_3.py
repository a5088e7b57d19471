"""Images for the timing of Task III's training steps."""

from __future__ import annotations

import torch

from ..datasets import image_sets
from ..vision.grid import Profile


def blank(profile: Profile, steps: int, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> image_sets.Images:
    """Noise in the place of images, `steps` batches of it: the time of a step does not depend on what is seen."""
    generator, n = torch.Generator().manual_seed(0), steps * profile.batch
    x = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % classes
    return image_sets.Images("noise", tuple(map(str, range(classes))), x, y, x[:classes], y[:classes])
