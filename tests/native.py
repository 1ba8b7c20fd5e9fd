"""What the tests of pictures share: native pixels, files that Pillow writes, errors of one line."""

import numpy as np
import pytest
from PIL import Image

DEPTHS = [np.uint8, np.uint16]
CHANNELS = [1, 2, 3, 4]
SIZES = [(333, 517), (1, 1), (1, 9), (9, 1)]  # (height, width)


def noise(height, width, channels, dtype=np.uint8, seed=0):
    """Random native pixels, (H, W, C) for any number of channels."""
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (height, width, channels), dtype, endpoint=True)


def write(path, pixels, **options):
    """An 8-bit file that Pillow writes, not we."""
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, **options)
    return path


def refused(match, function, *args, kind=ValueError, **options):
    """The call raises one line."""
    with pytest.raises(kind, match=match) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
