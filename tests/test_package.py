"""The package as a library: light to import, everything public within reach; and what a wheel of it holds."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import easyrlhf
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[1]


def test_importing_the_package_loads_no_heavy_library():
    program = (
        "import easyrlhf, sys; print(sorted({'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    assert {name for name in easyrlhf.__all__ if getattr(easyrlhf, name).__name__ == name} == set(easyrlhf.__all__)


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'train_everything'"):
        _ = easyrlhf.train_everything


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """What a wheel would hold, in an empty folder, built from a copy of what the repository has."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("easyrlhf", "configs", "data/toy", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    for name in ("setup.py", "README.md", "data/README.md", "scripts/quickstart_report.py"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return target


def test_a_wheel_holds_settings_files_toy_data_and_pages_byte_for_byte(built):
    patterns = ["configs/*.yaml", "configs/recipes/*.yaml", "configs/deepspeed/*.json", "data/toy/*.*"]
    patterns += ["docs/*.md", "docs/*.ipynb"]
    expected = {file.relative_to(ROOT).as_posix() for pattern in patterns for file in ROOT.glob(pattern)}
    expected |= {"README.md", "data/README.md", "scripts/quickstart_report.py"}
    files = built / "easyrlhf" / "files"
    found = {file.relative_to(files).as_posix() for file in files.rglob("*") if file.is_file()}
    assert found == expected
    assert len(expected) > 50 and {"docs/metrics.md", "data/toy/judge.py"} <= expected
    assert [name for name in found if (files / name).read_bytes() != (ROOT / name).read_bytes()] == []
    assert not any(file.is_symlink() for file in files.rglob("*"))
    assert sum((files / name).stat().st_size for name in found) < 2_500_000


@pytest.mark.parametrize(
    "room, some",
    [
        ("serve", {"index.html", "app.js", "app.css"}),
        ("report", {"page.html.jinja", "theme.css"}),
        ("labels/web", {"label.html.jinja", "labels.js", "labels.css"}),
        ("web", {"dom.js", "base.css"}),
    ],
)
def test_a_wheel_holds_the_pages(built, room, some):
    page = ROOT / "easyrlhf" / room / "page"
    files = {file.name: file.read_bytes() for file in page.iterdir()}
    assert some <= files.keys()
    assert files == {file.name: file.read_bytes() for file in (built / page.relative_to(ROOT)).iterdir()}


def test_an_installed_package_reads_its_own_copies(built, tmp_path):
    program = (
        "from easyrlhf import shipped; from easyrlhf.cli.main import main; print(shipped.root()); "
        "main(['recipes', '--copy', 'toy'], 'easyrlhf')"
    )
    own = os.environ | {"PYTHONPATH": str(built)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=own, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[0] == str(built / "easyrlhf" / "files")
    copied = tmp_path / "toy" / "data" / "toy" / "sft.jsonl.gz"
    assert copied.read_bytes() == (ROOT / "data" / "toy" / "sft.jsonl.gz").read_bytes()


def test_the_page_for_an_index_has_no_picture_or_link_that_leads_nowhere_there():
    page = load_module(ROOT / "setup.py").index_page
    assert page("![A](docs/a.png)\n\nSee [b](docs/b.md#c), [d](https://e.org).\n") == "See b, [d](https://e.org).\n"
    readme = page((ROOT / "README.md").read_text(encoding="utf-8"))
    assert re.findall(r"\]\((?!https?:)", readme) == []
    assert readme.startswith("# easyrlhf\n") and "(docs/distributed.md)" in readme


# a distribution whose name is not its module's → its module; one that no code here imports → who does
MODULES = {"PyYAML": "yaml", "reasoning-gym": "reasoning_gym"}
ASKED_FOR_BY = {"tensorboard": "torch.utils.tensorboard", "math-verify": "trl's rewards"}


def test_what_is_required_is_imported_and_what_is_imported_is_required():
    """The extra `dev` is for tests, and no code of the package."""
    setup = load_module(ROOT / "setup.py")
    extras = [one for name, extra in setup.EXTRAS.items() if name != "dev" for one in extra]
    required = {re.match(r"[\w-]+", one)[0] for one in (*setup.REQUIRES, *extras)}
    imported = set()
    for file in (ROOT / "easyrlhf").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.partition(".")[0] for name in names}
    imported -= {*sys.stdlib_module_names, "easyrlhf", ""}
    assert imported == {MODULES.get(name, name) for name in required if name not in ASKED_FOR_BY}
