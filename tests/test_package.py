"""The package as a library: light to import, everything public within reach."""

import subprocess
import sys

import pytest

import easyrlhf


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
