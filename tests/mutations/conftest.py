"""A copy of the project to break, and a process that runs its tests over and over."""

import compileall
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[2]
ForkServer = load_module(ROOT / "tests" / "forking" / "fork_server.py").ForkServer
PATIENCE = 500  # seconds until a run is ended: a break may loop for ever
# anyio's plugin takes longer to import than most of these runs do
OPTIONS = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio"]


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A copy of the package, its tests and the settings of pytest."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("easyrlhf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for name in ("data", "docs", "configs", "scripts"):  # tests read their samples, tables and names
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("images", "hh-rlhf"))
    # by content: a file that is broken and mended within a second has the same time and may have the same size
    compileall.compile_dir(folder / "easyrlhf", quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return folder


@dataclass(frozen=True)
class Ran:
    """Pytest's exit code, and what it said."""

    code: int
    said: str


@pytest.fixture(scope="session")
def run_tests(project) -> Iterator[Callable[[str], Ran]]:
    """Runs tests of the copy, named by their paths below tests/ with spaces between."""
    server, output = ForkServer("_hypothesis_pytestplugin", "hypothesis", "pytest_timeout"), project / "said.txt"

    def run(tests: str) -> Ran:
        output.write_text("")
        words = ["pytest", *OPTIONS, *(f"tests/{test}" for test in tests.split())]
        (code,) = server.run(words, project, output=str(output), seconds=PATIENCE)
        return Ran(code, output.read_text(errors="replace"))

    yield run
    server.close()
