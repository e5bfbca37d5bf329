"""How easy the package is to find one's way in, as numbers: sizes, names, parameters, and the way of one PPO step.

    python scripts/measure_code.py              the table; about half a minute, most of it two tiny runs
    python scripts/measure_code.py --no_walk    without those runs
    python scripts/measure_code.py --json       for a comparison before and after a change

The walk trains a tiny reward model and a tiny policy for a step each and looks which functions of the package are
entered, and how deep the losses lie below the stage's function. Everything else is read from the source.
"""

import ast
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import CodeType, FrameType

import click

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "easyrlhf"
# files that carry one step of training, whose functions call for reasons in comments
CENTRAL = (
    "online/loop.py",
    "online/collect.py",
    "online/update.py",
    "online/ppo.py",
    "online/grpo.py",
    "engine/engine.py",
    "engine/plain.py",
    "offline/loop.py",
    "rollout/sampler.py",
    "rollout/decode_batch.py",
    "models/attention.py",
)
A_METHOD = "simpo"  # files that name it are those that a new preference method touches
MOST_PARAMETERS, MOST_LINES, MOST_COMPLEX = 6, 300, 15
BRANCHES = (ast.If, ast.For, ast.While, ast.ExceptHandler, ast.IfExp, ast.With, ast.Assert, ast.comprehension)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@click.command(help=__doc__)
@click.option("--walk/--no_walk", default=True, show_default=True, help="Run the two tiny stages.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(walk: bool, as_json: bool):
    """Measure and print."""
    numbers = from_source() | (from_runs() if walk else {})
    if as_json:
        print(json.dumps(numbers, indent=2))
        return
    print("| what | number |\n|---|---|")
    for what, number in numbers.items():
        print(f"| {what} | {number} |")


def from_source() -> dict[str, int | float | str]:
    """What reading the package tells."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [(path, function) for path, tree in trees.items() for function in functions_of(tree)]
    lengths = {f"{path.relative_to(PACKAGE)}:{f.name}": f.end_lineno - f.lineno + 1 for path, f in functions}
    longest = max(lengths, key=lengths.get)
    names = Counter(
        node.name for tree in trees.values() for node in tree.body if isinstance(node, Function | ast.ClassDef)
    )
    files = Counter(path.name for path in texts if path.name != "__init__.py")
    calls = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    central = [PACKAGE / name for name in CENTRAL if (PACKAGE / name).exists()]
    lines = sum(len(texts[path].splitlines()) for path in central)
    return {
        "package lines": sum(len(text.splitlines()) for text in texts.values()),
        "package files": len(texts),
        "test lines": sum(
            len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py")
        ),
        f"files over {MOST_LINES} lines": sum(len(text.splitlines()) > MOST_LINES for text in texts.values()),
        "longest function": f"{lengths[longest]} ({longest})",
        f"functions with complexity over {MOST_COMPLEX}": sum(complexity(f) > MOST_COMPLEX for _, f in functions),
        f"functions with more than {MOST_PARAMETERS} parameters": sum(
            len(own(f)) > MOST_PARAMETERS for _, f in functions
        ),
        "parameters named config without a class": sum(
            a.arg == "config" and a.annotation is None for _, f in functions for a in own(f)
        ),
        "calls with *how": sum(
            isinstance(a, ast.Starred) and isinstance(a.value, ast.Name) and a.value.id == "how"
            for c in calls
            for a in c.args
        ),
        "calls of getattr(config, …)": sum(
            isinstance(c.func, ast.Name) and c.func.id == "getattr" and getattr(c.args[0], "id", "") == "config"
            for c in calls
        ),
        "group=": sum(keyword.arg == "group" for c in calls for keyword in c.keywords),
        "top-level names defined twice": sum(times > 1 for name, times in names.items() if name != "main"),
        "file names used twice": sum(times > 1 for times in files.values()),
        "comments in 100 lines of the central files": round(
            100 * sum(line.lstrip().startswith("#") for path in central for line in texts[path].splitlines()) / lines, 1
        ),
        f"package files that name {A_METHOD}": sum(A_METHOD in text.lower() for text in texts.values()),
    }


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, those within others too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def own(function: Function) -> list[ast.arg]:
    """The parameters that a caller gives."""
    arguments = function.args
    everything = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return [argument for argument in everything if argument.arg not in ("self", "cls")]


def complexity(function: Function) -> int:
    """McCabe's number: one more than the branches, those of functions within not counted."""
    count, todo = 1, list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, Function):
            continue
        count += isinstance(node, BRANCHES) or (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0)
        todo += ast.iter_child_nodes(node)
    return count


def from_runs() -> dict[str, int]:
    """What two tiny runs tell: how many functions a PPO step enters, and how deep the losses lie."""
    import easyrlhf as lib  # the stages import torch
    from easyrlhf.stages import online, rm  # noqa: F401  by now, since bodies of classes are no part of a step

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        base, rm, out = (f"{folder}/{name}" for name in ("base", "rm", "ppo"))
        toy, quiet = ROOT / "data" / "toy", {"devices": "cpu", "report_to": "none", "seed": 1}
        lib.init_model(lib.InitConfig(preset="tiny", train_data=str(toy / "sft.jsonl.gz"), output_dir=base))
        rm_config = lib.RMConfig(
            model=base, train_data=str(toy / "comparisons.jsonl.gz"), output_dir=rm, max_steps=1, batch_size=4, **quiet
        )
        rm_walk = walked(lambda: lib.train_rm(rm_config))
        ppo_config = lib.PPOConfig(
            model=base,
            reward_model=rm,
            train_data=str(toy / "prompts.jsonl.gz"),
            output_dir=out,
            max_steps=1,
            batch_size=4,
            num_mini_batches=1,
            **quiet,
        )
        ppo_walk = walked(lambda: lib.train_ppo(ppo_config))
    step = [code for code, above in ppo_walk.items() if "online/loop.py" in above]
    return {
        "functions in one PPO step": len(step),
        "files in one PPO step": len({code.co_filename for code in step}),
        "frames to ppo_policy_loss": depth(ppo_walk, "ppo_policy_loss"),
        "frames to bradley_terry_loss": depth(rm_walk, "bradley_terry_loss"),
    }


Walk = dict[CodeType, list[str]]


def walked(run: Callable[[], object]) -> Walk:
    """The package's functions that a run enters, each with the files of the package's frames above it at first."""
    seen: Walk = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code not in seen and inside(code) and not code.co_name.startswith("<"):
            seen[code] = frames_above(frame)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return seen


def inside(code: CodeType) -> bool:
    """Whether it is code of the package."""
    return code.co_filename.startswith(str(PACKAGE))


def frames_above(frame: FrameType) -> list[str]:
    """Files of the package's frames above this one, relative to the package."""
    files = []
    while (frame := frame.f_back) is not None:
        if inside(frame.f_code):
            files.append(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))
    return files


def depth(walk: Walk, name: str) -> int:
    """Frames of the package from the stage's function to the one of this name, both counted."""
    return next(len(above) + 1 for code, above in walk.items() if code.co_name == name)


if __name__ == "__main__":
    main()
