"""What a GPU has to show, section by section: one line a finding, the failures last, all of it in a file.

    python benchmarks/gpu_check.py                                every section, on the first GPU
    python benchmarks/gpu_check.py --device cpu --size m9         the same code where there is none, in two minutes
    python benchmarks/gpu_check.py --only kernel,equal,speed

Started in the root of a checkout. Exit code 1 where a finding is not as it should be.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent))

from speed import roofline, world

from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.models import attention
from easyrlhf.models.logprobs import row_token_logprobs, token_logprobs
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

ROOT = Path(__file__).parents[1]
LENGTHS = [5, 130, 1, 257, 64]
FEW = 64  # rows of a file on a CPU
BEHIND = 33  # tokens of a prompt that each row of queries stands behind


@dataclass(frozen=True)
class Place:
    """Where things are computed.

    size     name of the models whose speed is measured
    scratch  for folders of models and runs
    """

    device: torch.device
    size: str
    scratch: Path

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def half(self) -> torch.dtype:
        """The precision that is meant for training here."""
        return torch.bfloat16 if self.on_gpu else torch.float32

    @property
    def devices(self) -> str:
        """As --devices names it."""
        return "0" if self.on_gpu else "cpu"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ok is None where nothing is expected of it."""

    what: str
    value: Any
    ok: bool | None = None


def error_of(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return ((found - expected).norm() / expected.norm().clamp(min=1e-12)).item()


def shown(errors: list[float]) -> list[str]:
    """Errors as they are printed."""
    return [f"{error:.1e}" for error in errors]


# --- numbers


def attended(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], seen: list[int]) -> Tensor:
    """Attention in float64, row by row, whose last query sees the last key."""
    rows, first, begin = [], 0, 0
    for queries, keys in zip(lengths, seen, strict=True):
        q = query[first : first + queries].double()
        k, v = (
            one[begin : begin + keys].double().repeat_interleave(q.shape[1] // one.shape[1], 1) for one in (key, value)
        )
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[2] ** 0.5
        ahead = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(1 + keys - queries)
        rows.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(ahead, -torch.inf).softmax(-1), v))
        first, begin = first + queries, begin + keys
    return torch.cat(rows)


def kernel(place: Place) -> Iterator[Finding]:
    """The kernel for rows of various lengths: values and gradients, grouped heads, queries behind prompts."""
    yield Finding("the kernel takes fewer heads of keys", attention.TAKES_FEWER_KEYS)
    if not place.on_gpu:
        return
    for heads, key_heads, size in ((14, 2, 64), (32, 8, 128), (4, 4, 96)):
        for behind in (0, BEHIND):
            seen = [length + behind for length in LENGTHS]
            ends = tuple(
                torch.tensor([0, *lengths], device=place.device).cumsum(0).int() for lengths in (LENGTHS, seen)
            )
            shapes = (sum(LENGTHS), heads), (sum(seen), key_heads), (sum(seen), key_heads)
            given = [
                torch.randn(*shape, size, device=place.device, dtype=place.half, requires_grad=True) for shape in shapes
            ]
            found = attention.attend_packed(*given, ends, (max(LENGTHS), max(seen)), None)
            expected = attended(*given, LENGTHS, seen)
            toward = torch.randn_like(found)
            pairs = [(found, expected)]
            grads = torch.autograd.grad(found, given, toward), torch.autograd.grad(expected, given, toward.double())
            errors = [error_of(*pair) for pair in [*pairs, *zip(*grads, strict=True)]]
            yield Finding(
                f"heads {heads}:{key_heads} of {size}, {behind} before: value, gradients",
                shown(errors),
                max(errors) < 1e-2,
            )


def families(vocabulary: int) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts with some completions each."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(4, vocabulary, (count,), generator=generator).tolist()

    return [(ids(37), [ids(5), ids(23), ids(11)]), (ids(8), [ids(40)]), (ids(21), [ids(1), ids(17)])]


def read_off(model: ScalarModel, share: str) -> list[Tensor]:
    """Log-probabilities, scores, and the gradient of both."""
    model.zero_grad(set_to_none=True)
    logprobs = token_logprobs(model.lm, families(512), share)
    scores = model.completion_scores(families(512), share)
    turned = torch.linspace(1, -1, len(scores), device=scores.device)
    (logprobs.sum() / 100 + (scores * turned).sum()).backward()
    grads = [weight.grad.flatten().float() for weight in model.parameters() if weight.grad is not None]
    return [logprobs.detach(), scores.detach(), torch.cat(grads)]


def small_scorer(device: torch.device, dtype: torch.dtype) -> ScalarModel:
    """A random model with grouped heads."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "vocab_size": 512, "initializer_range": 0.1, "attn_implementation": "sdpa"}
    lm = LlamaForCausalLM(LlamaConfig(**shape))
    return ScalarModel(lm, new_head(lm)).to(device, dtype)


def equal(place: Place) -> Iterator[Finding]:
    """Log-probabilities, scores and gradients beside those of float32 on a CPU, prompts shared and apart."""
    expected = read_off(small_scorer(torch.device("cpu"), torch.float32), "off")
    for dtype, limit in ((torch.float32, 1e-4), (place.half, 1e-4 if place.half == torch.float32 else 3e-2)):
        model, why = small_scorer(place.device, dtype), []
        able = enable_sharing(model.lm, 128, why.append)
        packs = attention.packs_rows(place.device, dtype)
        yield Finding(
            f"{dtype}: can share, packs rows",
            [able, packs, *why],
            able and packs is (place.on_gpu and dtype != torch.float32),
        )
        for share in ("off", "on"):
            errors = [error_of(*pair) for pair in zip(read_off(model, share), expected, strict=True)]
            yield Finding(
                f"{dtype}, sharing {share}: log-probabilities, scores, gradients", shown(errors), max(errors) < limit
            )


def sampling(place: Place) -> Iterator[Finding]:
    """The same tokens whatever is decoded together, and, without chance, those of a CPU."""
    asked = [prompt for prompt, own in families(512) for _ in own]
    keys = [(0, number) for number in range(len(asked))]
    lm = small_scorer(place.device, torch.float32).lm.eval()

    def drawn(temperature: float, together: int) -> Tensor:
        return HFSampler(lm, 0, Ending((2,)), 24, temperature, together).generate(asked, keys).completion_ids.cpu()

    yield Finding("the same tokens, 64 and 2 together", same := torch.equal(drawn(1.0, 64), drawn(1.0, 2)), same)
    there = drawn(0.0, 64)
    lm.to("cpu")
    share = (there == drawn(0.0, 64)).float().mean().item()
    yield Finding("likeliest tokens as on a CPU", share, share > 0.98)


# --- speed


def seconds_of(job: Callable[[], object], place: Place) -> float:
    """The median of three, after one to warm up."""
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        job()
        if place.on_gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return sorted(taken[1:])[1]


def speed(place: Place) -> Iterator[Finding]:
    """SFT steps at the shapes of Qwen2.5: tokens a second, share of a matrix product's speed, peak memory."""
    peak = roofline.product_speed(place.half, place.device) if place.on_gpu else 1e11
    for name in {"0.5b": ["0.5b", "1.5b"]}.get(place.size, [place.size]):
        size = world.SIZES[name]
        with torch.device(place.device):
            lm = LlamaForCausalLM(world.config_of(size, attn_implementation="sdpa", dtype=place.half)).to(place.half)
        enable_sharing(lm, 4096)
        engine = PlainEngine(lm, OptimiserSettings(1e-5, "constant", 0.0, 0.0, 1e-8, 1.0, 100))
        for rows, length in ((8, 1024), (32, 1024), (8, 4096)) if place.on_gpu else ((2, 64),):
            ids = torch.randint(4, size.vocabulary, (rows, length), device=place.device)
            mask = torch.ones(rows, length, dtype=torch.long)
            mask[:, 0] = 0

            def loss(lm=lm, ids=ids, mask=mask) -> tuple[Tensor, dict]:
                return -row_token_logprobs(lm, ids, mask).sum(), {}

            taken = seconds_of(lambda e=engine, loss=loss, n=rows * length: e.step([(loss, 1.0)] * 2, 2 * n), place)
            share = 2 * roofline.flops(size, rows, length) / taken / peak
            memory = torch.cuda.max_memory_allocated() / 2**30 if place.on_gpu else 0.0
            value = [round(2 * rows * length / taken), f"{share:.1%}", f"{memory:.1f} GiB"]
            yield Finding(
                f"sft {name}, {rows} x {length}: tokens/s, share, peak", value, share > 0.35 if place.on_gpu else None
            )


def decoding(place: Place) -> Iterator[Finding]:
    """Tokens a second of sampling, by how many are decoded together."""
    size = world.SIZES[place.size]
    with torch.device(place.device):
        lm = LlamaForCausalLM(world.config_of(size, attn_implementation="sdpa")).to(place.half).eval()
    for count in (64, 256, 512) if place.on_gpu else (4,):
        prompts = torch.randint(4, size.vocabulary, (count, 128)).tolist()
        sampler = HFSampler(lm, 0, Ending(()), 64 if place.on_gpu else 4, 1.0, count)
        taken = seconds_of(
            lambda sampler=sampler, p=prompts: sampler.generate(p, [(0, n) for n in range(len(p))]), place
        )
        yield Finding(f"{place.size}, {count} together: tokens/s", round(count * sampler.max_new_tokens / taken))


# --- commands, as a user starts them


def command(name: str, *words: object, limit: int = 240, before: str = "") -> tuple[int, str]:
    """A command's exit code and its last words."""
    module = "easyrlhf.cli.stages" if name.endswith("_train") else "easyrlhf.cli.main"
    program = name if name.endswith("_train") else "main"
    start = f"{before}\nfrom {module} import {program}\n{program}()"
    told = [sys.executable, "-c", start, *(name.split()[1:] if program == "main" else []), *map(str, words)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        told, cwd=ROOT, capture_output=True, text=True, timeout=limit, env=os.environ | {"PYTHONPATH": path}
    )
    return done.returncode, (done.stdout + done.stderr).strip()[-2000:]


def last(folder: Path, name: str) -> float | None:
    """The newest value of a metric of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return next((row[name] for row in reversed(rows) if name in row), None)


def init_folder(place: Place) -> Path:
    """A small random model with the toy world's tokenizer, made once."""
    folder = place.scratch / "init"
    if not folder.exists():
        command("easyrlhf init", "--preset", "tiny", "--train_data", "data/toy/sft.jsonl.gz", "--output_dir", folder)
    return folder


def rows_of(place: Place, name: str) -> Path:
    """A file of the toy world; on a CPU, which is to be done soon, its first rows."""
    file = ROOT / "data" / "toy" / name
    if place.on_gpu:
        return file
    few = place.scratch / name.removesuffix(".gz")
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        few.write_text("".join(islice(lines, FEW)), encoding="utf-8")
    return few


def toy(place: Place) -> Iterator[Finding]:
    """The chain of the toy world, one command after another."""
    at = place.scratch
    files = {"sft": ("sft", "sft"), "rm": ("comparisons",) * 2, "ppo": ("prompts",) * 2, "dpo": ("comparisons",) * 2}
    steps = {"sft": None, "rm": None, "ppo": 6, "dpo": 20} if place.on_gpu else {"sft": 2, "rm": 2, "ppo": 1, "dpo": 2}
    models = {"sft": ["--model", init_folder(place)], "ppo": ["--reward_model", at / "rm", "--value_warmup_steps", 0]}
    for name, (train, valid) in files.items():
        told = ["--config", f"configs/recipes/toy_{name}.yaml", "--output_dir", at / name, "--devices", place.devices]
        told += ["--train_data", rows_of(place, f"{train}.jsonl.gz"), "--overwrite", "--report_to", "none"]
        told += ["--valid_data", rows_of(place, f"{valid}_heldout.jsonl")]
        told += [] if name == "sft" else ["--model", at / "sft"]
        told += [*models.get(name, []), *([] if steps[name] is None else ["--max_steps", steps[name]])]
        code, said = command(f"{name}_train", *told)
        yield Finding(f"{name}: exit code", code if code == 0 else said, code == 0)
    words = [at / "ppo", "--prompts", rows_of(place, "prompts_heldout.jsonl"), "--output", at / "answers.jsonl"]
    code, said = command("easyrlhf generate", *words, "--max_new_tokens", 8, "--devices", place.devices)
    yield Finding("generate: exit code", code if code == 0 else said, code == 0)


def sft_steps(place: Place, folder: Path, steps: int, *words: object, before: str = "") -> tuple[int, str]:
    """Some steps of sft in float32 on the toy world."""
    told = ["--model", init_folder(place), "--train_data", rows_of(place, "sft.jsonl.gz"), "--output_dir", folder]
    told += ["--max_steps", steps, "--batch_size", 8, "--log_steps", 1, "--max_length", 128, "--max_prompt_length", 96]
    told += ["--precision", "float32", "--report_to", "none", "--devices", place.devices]
    shutil.rmtree(folder, ignore_errors=True)
    return command("sft_train", *told, *words, before=before)


def zero(place: Place) -> Iterator[Finding]:
    """DeepSpeed on one device: the loss beside that without it."""
    kinds = ("none", "zero2", "zero3", "zero2_offload", "zero3_offload") if place.on_gpu else ("none", "zero3")
    losses = {}
    for kind in kinds:
        folder = place.scratch / f"zero-{kind}"
        code, said = sft_steps(place, folder, 3, "--deepspeed", kind)
        losses[kind] = last(folder, "loss") if code == 0 else None
        near = code == 0 and losses["none"] is not None and abs(losses[kind] - losses["none"]) < 1e-3
        yield Finding(f"{kind}: loss after 3 steps", losses[kind] if code == 0 else said, near)


def resume(place: Place) -> Iterator[Finding]:
    """A run that goes on from a checkpoint ends as one that was never stopped."""
    whole, rest = place.scratch / "whole", place.scratch / "rest"
    sft_steps(place, whole, 4, "--save_steps", 2, "--save_total_limit", 5)
    code, said = sft_steps(place, rest, 4, "--resume", whole / "checkpoints" / "step-2")
    losses = [last(folder, "loss") for folder in (whole, rest)] if code == 0 else said
    yield Finding("losses: undisturbed, continued", losses, code == 0 and abs(losses[0] - losses[1]) < 2e-3)


def oom(place: Place) -> Iterator[Finding]:
    """A full memory ends with advice, and exit code 1."""
    before = "import torch; torch.cuda.set_per_process_memory_fraction(0.004)" if place.on_gpu else FULL_MEMORY
    more = ["--micro_batch_tokens", 2_000_000, "--overwrite"]
    code, said = sft_steps(
        place, place.scratch / "oom", 1, *more, "--batch_size", 4000 if place.on_gpu else 8, before=before
    )
    advised = "micro_batch_tokens" in said
    yield Finding("exit code, advice", [code, advised], code == 1 and advised)


FULL_MEMORY = """
import torch, torch.nn.functional as F
def full(*_, **__): raise torch.OutOfMemoryError("imitated: no GPU is here")
F.cross_entropy = full
"""


def ppo(place: Place) -> Iterator[Finding]:
    """A PPO step at the size that is measured, by phase."""
    size, at = world.SIZES[place.size], place.scratch / "ppo-speed"
    model, draw, count = world.make_model(at / "model", size), world.Words(size), 256 if place.on_gpu else 4
    rows = [json.dumps({"prompt": world.words(draw(128 if place.on_gpu else 16))}) for _ in range(count)]
    (at / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    (at / "reward.py").write_text(
        "def words(completions, **_):\n    return [float(len(set(c.split()))) for c in completions]\n"
    )
    tokens = 128 if place.on_gpu else 8
    told = ["--model", model, "--reward_funcs", f"{at}/reward.py:words", "--train_data", at / "prompts.jsonl"]
    told += ["--output_dir", at / "out", "--batch_size", count, "--response_length", tokens, "--max_prompt_length", 160]
    told += ["--max_length", 160 + tokens, "--num_ppo_epochs", 1, "--max_steps", 2, "--epochs", 2, "--log_steps", 1]
    told += ["--num_sample_generations", 0, "--report_to", "none", "--overwrite", "--devices", place.devices]
    code, said = command("ppo_train", *told)
    phases = (
        {name: last(at / "out", f"time/{name}") for name in ("rollout", "score", "update", "step")}
        if code == 0
        else said
    )
    yield Finding(f"{place.size}, {count} answers of {tokens}: seconds of the second step", phases, code == 0)


SECTIONS = {one.__name__: one for one in (kernel, equal, sampling, speed, decoding, toy, zero, resume, oom, ppo)}


def look(place: Place, names: list[str]) -> list[dict]:
    """All findings of these sections, printed as they come; one that a section ends with is a finding too."""
    rows, start = [], time.monotonic()
    for name in names:
        findings = SECTIONS[name](place)
        while True:
            try:
                found = next(findings, None)
            except Exception as error:
                found = Finding("the section ended", f"{type(error).__name__}: {str(error)[:300]}", False)
            if found is None:
                break
            mark = {True: "ok", False: "FAIL", None: ""}[found.ok]
            click.echo(f"{time.monotonic() - start:6.1f} s {mark:4} {name:9} {found.what}: {found.value}")
            rows.append({"section": name} | asdict(found))
    return rows


@click.command(help=__doc__)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--size", type=click.Choice(list(world.SIZES)), help="Of what is timed.  [default: 0.5b, on a CPU m9]")
@click.option("--only", default=",".join(SECTIONS), show_default=True, help="Sections.")
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/gpu_check", show_default=True)
def main(device: str, size: str | None, only: str, output_dir: Path) -> None:
    """Look, print, write gpu_check.json, and fail where a finding does."""
    output_dir = output_dir.resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    chosen = size or {"cuda": "0.5b", "cpu": "m9"}[device]
    place = Place(torch.device(device, 0) if device == "cuda" else torch.device(device), chosen, output_dir)
    rows = look(place, only.split(","))
    (output_dir / "gpu_check.json").write_text(json.dumps(rows, indent=1, default=str))
    failed = [row for row in rows if row["ok"] is False]
    click.echo(
        f"{len(rows)} findings, {len(failed)} failed"
        + "".join(f"\nFAIL {row['section']} {row['what']}" for row in failed)
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
