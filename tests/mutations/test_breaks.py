"""The tests themselves are tested: every deliberate break of the package must turn one of them red."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module

PACKAGE = Path(__file__).parents[2] / "easyrlhf"
BREAKS = load_module(Path(__file__).with_name("breaks.py")).BREAKS
ROOMS: dict[str, dict[str, None]] = {}  # tests by the folder or file that stands first in their path
for test in (test for one in BREAKS for test in one.tests.split()):
    ROOMS.setdefault(test.split("::")[0].split("/")[0], {})[test] = None

pytestmark = pytest.mark.slow


def test_no_break_uses_a_name_that_its_file_has_not(tmp_path):
    for number, one in enumerate(one for one in BREAKS if one.file.endswith(".py")):
        text = (PACKAGE / one.file).read_text(encoding="utf-8")
        (tmp_path / f"{number}_{Path(one.file).name}").write_text(text.replace(one.old, one.new), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "concise"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_the_unbroken_copy_passes(run_tests, room):
    ran = run_tests(" ".join(ROOMS[room]))
    assert ran.code == pytest.ExitCode.OK, ran.said


@pytest.mark.parametrize("one", BREAKS, ids=lambda one: one.file)
def test_every_break_is_noticed(project, run_tests, one):
    if one.file.endswith(".js") and not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed: no test runs a page")
    file = project / "easyrlhf" / one.file
    text = file.read_text(encoding="utf-8")
    assert text.count(one.old) == 1
    file.write_text(text.replace(one.old, one.new), encoding="utf-8")
    try:
        ran = run_tests(one.tests)
        assert ran.code == pytest.ExitCode.TESTS_FAILED, ran.said
    finally:
        file.write_text(text, encoding="utf-8")
