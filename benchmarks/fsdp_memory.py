"""Private memory of each process that holds a part of a model under --sharding fsdp2, from the disk to the disk.

    python benchmarks/fsdp_memory.py --output_dir /tmp/fsdp_memory                    # under a minute on 2 cores

Makes a random Llama with the tokenizer of a finished quickstart (scripts/quickstart.sh), and lets processes on the CPU
load it, load it again as a frozen reference, take a step, write a checkpoint and write the model folder. Prints what
each phase has added at its peak to what the process had before, in MiB of RssAnon: files that are mapped, as those of
safetensors are, are not the process's own.
"""

import gc
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import click
import torch
import torch.distributed as dist
from torch import multiprocessing

from easyrlhf.launch import free_port

MIB = 2**20
# Freed blocks go back to the system at once: what glibc keeps is else counted as the process's.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
SHAPE = {"hidden_size": 640, "intermediate_size": 1920, "num_attention_heads": 10, "num_key_value_heads": 5}


class Peak(threading.Thread):
    """Looks at the process's private memory again and again."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen = [0.0]  # by the present phase
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            seen = self.seen
            seen[0] = max(seen[0], private_memory())
            time.sleep(0.002)

    @contextmanager
    def phase(self, name: str, found: dict[str, float]) -> Iterator[None]:
        """Note in `found` how far the memory rises in here."""
        gc.collect()
        before = private_memory()
        self.seen = seen = [before]
        yield
        found[name] = max(seen[0], private_memory()) - before


def private_memory() -> float:
    """MiB of this process's own memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("this system does not say what memory is a process's own")


def make_model(folder: Path, tokenizer_of: Path, vocabulary: int, layers: int) -> float:
    """Write a random float32 Llama as a folder with one weights file; returns its MiB."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, vocab_size=vocabulary, tie_word_embeddings=False)
    lm = LlamaForCausalLM(config)
    lm.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return sum(parameter.nbytes for parameter in lm.parameters()) / MIB


def measure(folder: Path, count: int) -> list[dict[str, float]]:
    """MiB that each phase adds at its peak, for each process; `folder` has the model, and gets others."""
    os.environ |= MALLOC | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    children = [context.Process(target=work, args=(rank, folder, queue)) for rank in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise click.ClickException("a process failed; see what it said")
    return [found for _, found in sorted(queue.get() for _ in children)]


def work(rank: int, folder: Path, queue: Queue) -> None:
    """What one process does, phase by phase."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    from easyrlhf.engine import processes
    from easyrlhf.engine.choice import make_engine
    from easyrlhf.engine.engine import OptimiserSettings
    from easyrlhf.engine.fsdp import spread_of
    from easyrlhf.models.load import check_lm_head
    from easyrlhf.stages.saved_parts import save_parts

    device, found = torch.device("cpu"), {}
    with processes.join_group(device, 300, alone=False):
        warm_up(device)
        peak = Peak()
        with peak.phase("loading", found):
            lm, tokenizer = loaded(folder / "model", device, trained=True)
        with peak.phase("loading a frozen one", found):
            frozen, _ = loaded(folder / "model", device, trained=False)
        del frozen
        with peak.phase("the first pass", found), torch.no_grad():
            check = partial(check_lm_head, lm, "the model")
            spread_of(lm).one_pass(check)
        engine = make_engine(lm, OptimiserSettings(1e-4, "constant", 0.0, 0.0, 1e-8, 1.0, 10), None, torch.float32)
        for name in ("the first step", "another step"):
            with peak.phase(name, found):
                engine.step([(loss_of(lm), 1.0)], 16)
        with peak.phase("a checkpoint", found):
            engine.save(folder / "checkpoint")
        with peak.phase("the model folder", found):
            save_parts(folder / "saved", lm, tokenizer)
        dist.barrier()
    queue.put((rank, found))


def warm_up(device: torch.device) -> None:
    """Import, and exchange something, so that the first phase is not charged with it."""
    import transformers.models.llama.modeling_llama  # noqa: F401

    import easyrlhf.stages.models  # noqa: F401

    dist.all_reduce(torch.zeros(1, device=device))


def loaded(path: Path, device: torch.device, *, trained: bool):
    """The model of a folder, read and spread over the processes but not looked at yet, and its tokenizer."""
    from easyrlhf.data.tokenizer import load_tokenizer
    from easyrlhf.engine.fsdp import spread
    from easyrlhf.models.load import load_causal_lm

    tokenizer = load_tokenizer(str(path))
    lm = load_causal_lm(str(path), tokenizer, dtype=torch.float32, spread_on=device).requires_grad_(trained)
    lm.unread.checks.clear()
    return spread(lm, device, torch.float32), tokenizer


def loss_of(lm) -> Callable:
    """A micro-batch of one row."""
    from easyrlhf.models.logprobs import row_token_logprobs

    ids, mask = torch.arange(3, 20)[None], torch.ones(1, 17, dtype=torch.long)
    mask[0, 0] = 0
    return lambda: (-row_token_logprobs(lm, ids, mask).sum(), {})


@click.command(help=__doc__)
@click.option("--start", default="outputs/quickstart/init", show_default=True, type=click.Path(path_type=Path))
@click.option("--output_dir", default="outputs/fsdp_memory", show_default=True, type=click.Path(path_type=Path))
@click.option("--processes", "counts", default="2,4", show_default=True, help="Numbers of processes.")
@click.option("--vocabulary", default=24000, show_default=True, help="Rows of the embeddings.")
@click.option("--layers", default=14, show_default=True)
def main(start: Path, output_dir: Path, counts: str, vocabulary: int, layers: int) -> None:
    """Make the model, measure, print a table."""
    shutil.rmtree(output_dir, ignore_errors=True)
    whole = make_model(output_dir / "model", start, vocabulary, layers)
    click.echo(f"a model of {whole:.0f} MiB in float32; MiB that each phase adds to a process at its peak")
    for count in map(int, counts.split(",")):
        table = measure(output_dir, count)
        for name in table[0]:
            cells = ", ".join(f"{found[name]:.0f}" for found in table)
            click.echo(f"{count} processes, {name}: {cells}")
        (output_dir / f"{count}.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
