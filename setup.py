"""Installs the package `easyrlhf` and its commands; tested versions are in constraints.txt."""

import re
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
README = HERE / "README.md"
STAGES = runpy.run_path(str(HERE / "easyrlhf" / "stage_table.py"))["STAGES"]  # it needs the standard library alone

COMMANDS = [
    "easyrlhf = easyrlhf.cli.main:main",
    *(f"{stage.command} = easyrlhf.cli.stages:{stage.command}" for stage in STAGES.values()),
]

REQUIRES = [
    "torch>=2.11",
    "transformers>=5.16,<6",
    "tokenizers>=0.22",
    "trl>=1.16,<2",
    "huggingface_hub>=1.31,<3",
    "peft>=0.19",
    "datasets>=4.7",
    "pyarrow>=21",
    "accelerate>=1.12",
    "safetensors>=0.7",
    "jinja2>=3.1",  # for pages, and transformers renders chat templates with it
    "markupsafe>=3",
    "numpy>=2",
    "click>=8.2",
    "jsonlines>=4",
    "PyYAML>=6",
    "requests>=2.32",
    "urllib3>=2.5",
    "rich>=14",
    "matplotlib>=3.10",
    "tensorboard>=2.20",  # for torch.utils.tensorboard
    'deepspeed>=0.18.6; sys_platform == "linux"',
]

SERVE = ["starlette>=1", "uvicorn>=0.40"]
LABEL = [*SERVE, "krippendorff>=0.8"]
QUANTIZATION = ["bitsandbytes>=0.45.1"]
MATH = ["math-verify>=0.5.2"]  # what trl's rewards read solutions with

REASONING_GYM = ["reasoning-gym>=0.1.25"]

EXTRAS = {
    "vllm": ["vllm>=0.31"],
    "wandb": ["wandb>=0.22"],
    "mlflow": ["mlflow>=3"],
    "trackio": ["trackio>=0.40"],
    "quantization": QUANTIZATION,
    "math": MATH,
    "reasoning_gym": REASONING_GYM,
    "serve": SERVE,
    "label": LABEL,
    "dev": [
        *LABEL,
        *QUANTIZATION,
        *MATH,
        "openai>=3",
        "selenium>=4.40",
        "nbclient>=0.10",
        "ipykernel>=7",
        "pytest>=9",
        "pytest-timeout>=2.4",
        "pytest-xdist>=3.8",
        "hypothesis>=6.140",
        "ruff>=0.14",
    ],
}

CLASSIFIERS = [
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Environment :: GPU :: NVIDIA CUDA",
    "Intended Audience :: Developers",
    "Intended Audience :: Science/Research",
    "License :: OSI Approved :: MIT License",
    "Operating System :: POSIX :: Linux",
    "Operating System :: MacOS",
    "Operating System :: Microsoft :: Windows",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)),
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
]

# What an installed package brings along beside its code, in easyrlhf/files; easyrlhf/shipped.py finds it there.
SHIPPED = [
    "README.md",
    "docs/*.md",
    "docs/*.ipynb",
    "configs/*.yaml",
    "configs/recipes/*.yaml",
    "configs/deepspeed/*.json",
    "data/README.md",
    "data/toy/*.*",
    "scripts/quickstart_report.py",
]


class BuildWithFiles(build_py):
    """Builds the package, and puts copies of configs, toy data and pages into it."""

    def run(self) -> None:
        """Build, then copy; an editable installation reads the files where they are."""
        super().run()
        if self.editable_mode:
            return
        for file in (file for pattern in SHIPPED for file in HERE.glob(pattern)):
            target = Path(self.build_lib) / "easyrlhf" / "files" / file.relative_to(HERE)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def index_page(readme: str) -> str:
    """README.md for a package index, where its pictures and links to files would lead nowhere."""
    without_pictures = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", readme)
    return re.sub(r"\[([^]]+)\]\((?!https?:)[^)]*\)", r"\1", without_pictures)


if __name__ == "__main__":
    setup(
        name="easyrlhf",
        version="0.1.0",
        description="SFT, reward model and PPO for language models, without Ray.",
        long_description=index_page(README.read_text(encoding="utf-8")) if README.exists() else "",
        long_description_content_type="text/markdown",
        author="easyrlhf contributors",
        license="MIT",
        keywords="rlhf ppo grpo dpo sft reward-model alignment fine-tuning language-models llm",
        classifiers=CLASSIFIERS,
        python_requires=">=3.11",
        packages=find_packages(include=["easyrlhf", "easyrlhf.*"]),
        package_data={
            "easyrlhf": ["engine/deepspeed/*.json", "report/page/*", "serve/page/*", "labels/web/page/*", "web/page/*"]
        },
        cmdclass={"build_py": BuildWithFiles},
        install_requires=REQUIRES,
        extras_require=EXTRAS,
        entry_points={"console_scripts": COMMANDS},
    )
