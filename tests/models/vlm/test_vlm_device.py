"""Runs device_checks.py in a separate process: a registered device stays in torch until the process ends."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paths import REPOSITORY


@pytest.mark.long
@pytest.mark.skipif(shutil.which("ninja") is None or shutil.which("c++") is None, reason="builds the device")
def test_a_device_that_is_not_the_cpu_behaves_as_a_gpu() -> None:
    checks = Path(__file__).with_name("device_checks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(checks)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
