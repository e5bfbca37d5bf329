"""The pages of docs/: their commands parse, the files they name exist, their links lead somewhere."""

import importlib
import re
import shlex
from itertools import groupby
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli import stages
from easyrlhf.config.peers import FOREIGN, Translation
from easyrlhf.config.peers.methods import COMMANDS
from easyrlhf.config.peers.methods import KEYS as METHOD_KEYS
from easyrlhf.config.suggestions import STAGES

ROOT = Path(__file__).parents[1]
PAGES = sorted(page.name for page in (ROOT / "docs").glob("*.md"))
PROGRAMS = [f"{config.stage}_train" for config in STAGES]


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def commands(page: str) -> list[list[str]]:
    """The words of every command of the page's bash blocks, each part of a pipe for itself."""
    blocks = re.findall(r"```bash\n(.*?)```", text_of(page), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [list(part) for line in words for pipe, part in groupby(line, "|".__eq__) if not pipe]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses_up_to_the_call_of_its_stage(page, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("easyrlhf.launch.start", lambda target, config: seen.append(target))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    called = 0
    for program, *words in commands(page):
        if program in PROGRAMS:
            called += 1
            done = CliRunner().invoke(getattr(stages, program), words, prog_name=program)
            assert done.exit_code == 0, (program, words, done.output)
        elif program in ("python", "bash") or program.startswith(("scripts/", "./scripts/")):
            named = [word for word in [program, *words] if word.startswith(("benchmarks/", "scripts/", "./scripts/"))]
            assert all((ROOT / word).exists() for word in named), (program, words)
        elif program == "easyrlhf":
            tools = importlib.import_module("easyrlhf.cli.main").main
            assert callable(tools.invoke(tools.make_context(program, words))), words
        else:
            assert program in ("pip", "tensorboard", "gzip", "export", "eval", "hf", "printf"), program
    assert len(seen) == called
    for target in seen:
        module, function = target.split(":")
        assert callable(getattr(importlib.import_module(module), function)), target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    text = text_of(page)
    named = re.findall(r"`((?:easyrlhf|tests|benchmarks|scripts|configs|data|docs)/[\w./-]+\.\w+)`", text)
    named += re.findall(r"\b(docs/[\w-]+\.md)\b", text)
    named += re.findall(r"python (benchmarks/\w+\.py)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_inside_the_project_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page))
    inside = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in inside if not (ROOT / "docs" / link).exists()] == []


def test_every_page_leads_to_the_list_of_pages_and_is_on_it():
    assert [page for page in PAGES if page != "README.md" and "](README.md)" not in text_of(page).splitlines()[2]] == []
    listed = set(re.findall(r"\]\((\w+\.md)\)", text_of("README.md")))
    assert set(PAGES) - listed == {"README.md"}
    readme = (ROOT / "README.md").read_text()
    named = re.findall(r"docs/\w+\.md", re.sub(r"```.*?```", "", readme, flags=re.DOTALL))
    assert readme.index("pip install easyrlhf") < readme.index("(docs/README.md)") < readme.index("quickstart.sh")
    assert [name for name in named if f"]({name})" not in readme] == []


def names_by_answer() -> str:
    """All that easyrlhf.config.peers knows, a row for each answer, as docs/migrating.md shows it."""
    answers: dict[Translation, list[str]] = {}
    for name, answer in FOREIGN.items():
        answers.setdefault(answer, []).append(f"`{name}`")
    methods = ", ".join(f"`{key}`" for key in METHOD_KEYS)
    rows = [f"| {methods} | a command: {', '.join(f'{v} is {c}' for v, c in COMMANDS.items() if c != f'{v}_train')} |"]
    for (ours, note), names in answers.items():
        here = ", ".join(f"`{name}`" for name in ours) or "none"
        rows.append(f"| {', '.join(names)} | {here}{': ' * bool(note)}{note} |".replace("{", "\\{"))
    return "\n".join(["| theirs | here |", "|---|---|", *rows])


def test_the_page_on_migrating_ends_with_every_name_and_its_answer():
    shown = text_of("migrating.md").partition("## Every name\n")[2].partition("\n| theirs")[2]
    assert f"| theirs{shown}".rstrip("\n") == names_by_answer(), "write names_by_answer() there"


def test_renamed_settings_of_the_page_on_migrating_are_answered_with_the_name_it_gives():
    page = text_of("migrating.md").partition("## Every name\n")[0]
    table = re.findall(r"^\| (`.*?) \| (.*?) \|$", page, flags=re.MULTILINE)
    checked = 0
    for theirs, ours in table:
        named = set(re.findall(r"`--(\w+)", ours))
        for name in re.findall(r"`(?:--)?(\w+)`", theirs):
            if named and name in FOREIGN:
                checked += 1
                assert set(FOREIGN[name].ours) & named, (name, FOREIGN[name].ours, ours)
    assert checked > 20
