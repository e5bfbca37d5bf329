"""`easyrlhf init-config STAGE`: a settings file of everything, which changes nothing until a line is uncommented."""

import re
from dataclasses import MISSING, fields

import pytest
import yaml
from click.testing import CliRunner

from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.config import TRAINING


def printed(stage: str) -> str:
    result = CliRunner().invoke(easyrlhf, ["init-config", stage], prog_name="easyrlhf")
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("stage", TRAINING)
def test_the_file_as_it_is_sets_nothing(stage, stages, yaml_file):
    config = stages.config(stage, "--config", yaml_file(printed(stage)), "--train_data", "rows.jsonl")
    assert config == TRAINING[stage](train_data="rows.jsonl")


@pytest.mark.parametrize("stage", TRAINING)
def test_with_every_line_uncommented_it_sets_every_default(stage, stages, yaml_file):
    text = re.sub(r"^# ", "", printed(stage), flags=re.MULTILINE)
    assert list(yaml.safe_load(text)) == re.findall(r"^# (\w+):", printed(stage), flags=re.MULTILINE)
    assert set(yaml.safe_load(text)) == {setting.name for setting in fields(TRAINING[stage])}
    config = stages.config(stage, "--config", yaml_file(text))
    assert config == TRAINING[stage](train_data="FILE")


def test_an_uncommented_and_changed_line_is_set(stages, yaml_file):
    text = printed("ppo").replace("# kl_coef: 0.05\n", "kl_coef: 0.3\n")
    assert stages.config("ppo", "--config", yaml_file(text), "--train_data", "a").kl_coef == 0.3


def test_every_setting_stands_below_its_help_kind_limits_and_default():
    page = printed("ppo_train")
    words = re.sub(r"(?<!\n)\n## ", " ", page)
    for setting in fields(TRAINING["ppo"]):
        below = re.search(rf"^## (.*)\n# {setting.name}:", words, re.MULTILINE)[1]
        assert below.startswith(setting.metadata["help"])
        assert ("It must be given" in below) == (setting.default is MISSING)
    assert "Value: one of k1, k3. Default: k1.\n# kl_estimator: k1\n" in words
    assert "Value: a number, 0 or more, 1 or less. Default: 0.95.\n# lam: 0.95\n" in words
    assert "Value: a number, above 0, or null. Default: 3e-6, with LoRA 1e-5.\n# learning_rate: null\n" in words
    assert "It must be given, here or as a flag.\n# train_data: FILE\n" in words
    assert max(len(line) for line in page.splitlines()) <= 100


@pytest.mark.parametrize(
    "typed, answer",
    [("ppp", "did you mean ppo?"), ("xyzzy", "one of sft, rm, ppo, grpo, ebft, dpo, ipo, kto, orpo, simpo, cpo, rrhf")],
)
def test_another_name_is_answered_with_those_there_are(typed, answer):
    result = CliRunner().invoke(easyrlhf, ["init_config", typed], prog_name="easyrlhf")
    assert (result.exit_code, result.stderr) == (2, f"error: unknown stage {typed}: {answer}\n")
