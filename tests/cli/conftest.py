"""A stage that only remembers its config, so that the commands can be run to their end."""

import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import TRAINING

PAGE = HelpPage(summary="A command for tests.", story=[("Goes in", "rows")], examples=["do it"])


class Stages:
    """Commands like the real ones; their stage function records configs and may raise."""

    def __init__(self):
        self.configs = []
        self.raises = None

    def train(self, config):
        """What the commands call in place of training."""
        self.configs.append(config)
        if self.raises:
            raise self.raises
        return Path("nowhere")

    def run(self, stage: str, *args: str) -> Result:
        """Run `<stage>_train` with these arguments."""
        name = f"{stage}_train"
        command = SettingsCommand(name, TRAINING[stage], "pretended_stage:train", PAGE)
        return CliRunner().invoke(command, list(args), prog_name=name)

    def config(self, stage: str, *args: str):
        """The config that the stage gets from these arguments."""
        result = self.run(stage, *args)
        assert result.exit_code == 0, result.output
        return self.configs[-1]

    def error(self, stage: str, *args: str) -> str:
        """The message for arguments that cannot be used; the stage must not have begun."""
        begun = len(self.configs)
        result = self.run(stage, *args)
        assert result.exit_code == 2, result.output
        assert len(self.configs) == begun
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        assert result.stderr.startswith("error: ")
        return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """Pretended stages, run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    pretended = Stages()
    module = types.ModuleType("pretended_stage")
    module.train = pretended.train
    monkeypatch.setitem(sys.modules, "pretended_stage", module)
    monkeypatch.setattr("easyrlhf.launch.glance", lambda config: None)  # their inputs are pretended as well
    return pretended


@pytest.fixture
def yaml_file(tmp_path):
    """A function that writes `settings.yaml` and returns its name."""

    def write(text: str) -> str:
        Path(tmp_path, "settings.yaml").write_text(text, encoding="utf-8")
        return "settings.yaml"

    return write
