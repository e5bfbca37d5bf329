"""`easyrlhf recipes` and `easyrlhf docs`: what they list, print and copy."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from easyrlhf import shipped
from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError

ROOT = Path(__file__).parents[2]


def run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(easyrlhf, list(words), prog_name="easyrlhf")
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_every_settings_file_is_listed_with_what_it_is():
    page = run("recipes")
    for file in [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs" / "recipes").glob("*.yaml")]:
        assert re.search(rf"^  {file.stem} +\w", page, re.MULTILINE), file
    assert "  kto           KTO on comparisons; files of single answers with a label will do as well.\n" in page
    assert "  toy_ppo         PPO on the toy world: 24 rollouts of 128 answers.\n" in page
    assert "  zero2 zero2_offload zero3 zero3_offload\n" in page
    assert max(len(line) for line in page.splitlines()) <= 100


@pytest.mark.parametrize(
    "name, file",
    [
        ("toy_ppo", "configs/recipes/toy_ppo.yaml"),
        ("toy-ppo.yaml", "configs/recipes/toy_ppo.yaml"),
        ("configs/ppo.yaml", "configs/ppo.yaml"),
        ("./configs/recipes/toy_sft.yaml", "configs/recipes/toy_sft.yaml"),
        ("zero3", "easyrlhf/engine/deepspeed/zero3.json"),
    ],
)
def test_one_is_printed_as_it_is(name, file):
    assert run("recipes", name) == (ROOT / file).read_text(encoding="utf-8")


def test_copied_files_serve_every_recipe_and_the_commands_that_are_shown(tmp_path):
    out = run("recipes", "--copy", str(tmp_path / "toy"))
    assert f"files are in {tmp_path / 'toy'}: configs/, data/toy/" in out
    for recipe in (tmp_path / "toy" / "configs" / "recipes").glob("*.yaml"):
        for key, value in yaml.safe_load(recipe.read_text(encoding="utf-8")).items():
            if key in ("train_data", "valid_data"):
                copied = tmp_path / "toy" / value
                assert copied.read_bytes() == (ROOT / value).read_bytes(), (recipe, value)
    named = re.findall(r"(?:data|configs|scripts)/[\w./]+\.\w+", out)
    assert len(named) == 5
    assert [name for name in named if not (tmp_path / "toy" / name).is_file()] == []
    assert not (tmp_path / "toy" / "configs" / "deepspeed" / "zero2.json").is_symlink()


def test_copying_again_changes_nothing_and_never_replaces_what_was_changed(tmp_path):
    run("recipes", "--copy", str(tmp_path))
    run("recipes", "--copy", str(tmp_path))
    mine = tmp_path / "configs" / "sft.yaml"
    mine.write_text("seed: 7\n")
    (tmp_path / "data" / "README.md").unlink()
    error = run("recipes", "--copy", str(tmp_path), code=2)
    assert error.startswith(f"error: --copy {tmp_path}: {mine} would be replaced by another file; give another folder")
    assert mine.read_text() == "seed: 7\n"
    assert not (tmp_path / "data" / "README.md").exists()


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "taken").touch()
    error = run("recipes", "--copy", str(tmp_path / "taken"), code=2)
    assert error.startswith(f"error: --copy {tmp_path / 'taken'}: cannot be written (Not a directory)")


@pytest.mark.parametrize(
    "words, message",
    [
        (["recipes", "toy_pp"], "unknown recipe toy_pp: did you mean toy_ppo?"),
        (["recipes", "xyzzy"], "unknown recipe xyzzy: easyrlhf recipes lists them"),
        (["docs", "metric"], "unknown page metric: did you mean metrics?"),
        (["docs", "xyzzy"], "unknown page xyzzy: easyrlhf docs lists them"),
        (
            ["recipes", "ppo", "--copy", "x"],
            "give NAME or --copy, not both: easyrlhf recipes ppo > ppo.yaml keeps one",
        ),
    ],
)
def test_what_is_not_there_is_answered(words, message):
    assert run(*words, code=2) == f"error: {message}\n"


def test_every_page_is_listed_with_its_title():
    listed = run("docs")
    for file in (ROOT / "docs").glob("[a-z]*.md"):
        assert re.search(rf"^  {file.stem} +\w", listed, re.MULTILINE), file
    assert "  using_models   Using models: chat, generate, score\n" in listed
    assert "  formats        Data: every row format with a sample\n" in listed


@pytest.mark.parametrize(
    "name, file",
    [
        ("metrics", "docs/metrics.md"),
        ("docs/metrics.md", "docs/metrics.md"),
        ("using-models", "docs/using_models.md"),
        ("formats", "data/README.md"),
        ("data/README.md", "data/README.md"),
        ("readme", "README.md"),
    ],
)
def test_a_page_goes_into_a_pipe_as_it_is(name, file):
    assert run("docs", name) == (ROOT / file).read_text(encoding="utf-8")


def test_on_a_terminal_a_page_is_laid_out(monkeypatch, capsys):
    from easyrlhf.tools.browse import show_page

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    show_page("sft")
    shown = capsys.readouterr().out
    assert "Supervised fine-tuning" in shown and "# Supervised" not in shown and "](" not in shown
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in shown.splitlines()) <= 90


def test_files_that_are_missing_are_offered_where_the_package_has_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    offer = r"easyrlhf recipes --copy \. brings it"
    with pytest.raises(InputError, match=rf"^data/toy/sft\.jsonl\.gz: no such file or folder; {offer}$"):
        open_sources("data/toy/sft.jsonl.gz")
    with pytest.raises(InputError, match=r"^data/toy/sft\.json: no such file or folder; there is no folder data/toy$"):
        open_sources("data/toy/sft.json")


def test_messages_and_help_name_pages_by_the_command_that_shows_them():
    """Texts of the program, not docstrings, which are for readers of the code."""
    texts = [text for file in shipped.PACKAGE.rglob("*.py") if file.name != "shipped.py" for text in said(file)]
    assert len(texts) > 1000
    assert [text for text in texts if re.search(r"docs/[a-z_]+\.md|data/README\.md", text)] == []
    named = {name for text in texts for name in re.findall(r"easyrlhf docs ([a-z_]+)", text)}
    assert {"metrics", "formats", "memory", "rewards"} <= named
    assert named <= {*shipped.pages()}


def said(file: Path) -> list[str]:
    """The texts of a module but for its docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(node.body[0].value) for node in documented if isinstance(node.body[0], ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]
