"""A Jetson's OpenCV is 4: it passes cut images, and reads no more frames than a container counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

HERE = Path(__file__).parent
OTHER = HERE.parents[1] / "build" / "opencv4"


@pytest.mark.skipif(not (OTHER / "cv2").is_dir(), reason="OpenCV 4 is not there: make build/opencv4/cv2")
@pytest.mark.skipif(cv2.__version__ < "5", reason="this is OpenCV 4")
def test_files_are_read_and_refused_there_as_here() -> None:
    path = os.pathsep.join([str(OTHER), str(HERE.parents[1])])
    files = map(str, (HERE / "test_images.py", HERE / "test_video.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--noconftest", *files]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
