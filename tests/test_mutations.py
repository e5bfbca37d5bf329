"""The tests themselves are tested: every deliberate break of the package must turn one of them red."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_deliberate_break_is_noticed():
    script = Path(__file__).with_name("mutations.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
