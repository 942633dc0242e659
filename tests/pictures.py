"""Pictures that are made up: as different from one another as photographs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw


def scene(seed: int) -> Image.Image:
    """A blurred background and a few shapes, RGB, 120 x 150."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(256, size=(5, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((120, 150), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = rng.integers(0, (110, 140))
        width, height = rng.integers(10, 60, size=2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + width, y + height), fill=tuple(rng.integers(256, size=3).tolist()))
    return picture


def saved(picture: Image.Image, **form: Any) -> bytes:
    """A picture as a file, by default a JPEG of quality 90."""
    stream = io.BytesIO()
    picture.save(stream, **{"format": "JPEG", "quality": 90, **form})
    return stream.getvalue()
