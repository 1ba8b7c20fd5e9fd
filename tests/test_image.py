"""image.py: the public names of pictures."""

import subprocess
import sys
from pathlib import Path

import pytest

from photofound import image as module

pytestmark = pytest.mark.usefixtures("no_surprises")


@pytest.mark.slow
def test_the_import_is_cheap():
    """Neither torch nor OpenCV is loaded before it is needed."""
    code = "import sys, photofound.image; print([m for m in ('torch', 'cv2', 'diffusers') if m in sys.modules])"
    root = Path(module.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
