# easyrlhf with its commands, for a CPU or for NVIDIA GPUs.
#
#   docker build -t easyrlhf .                                        torch as pip finds it for Linux: with CUDA
#   docker build -t easyrlhf --build-arg TORCH_INDEX_URL=ADDRESS .    torch from the index of PyTorch's CPU builds,
#                                                                     whose address pytorch.org shows: several GB less
#   docker run --rm -it --gpus all --ipc=host -v "$PWD:/work" easyrlhf sft_train --train_data demos.jsonl
#
# EXTRAS=vllm, wandb or mlflow adds those extras of setup.py. DeepSpeed's offloading compiles a kernel when it is first
# used and needs nvcc for it: give an image with CUDA's compiler and Python 3.11 or newer as BASE.
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG TORCH_INDEX_URL=""
ARG EXTRAS=""

# DeepSpeed and Triton compile small programs while they run
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/easyrlhf
COPY setup.py pyproject.toml constraints.txt README.md LICENSE MANIFEST.in ./
COPY scripts scripts
COPY configs configs
COPY data data
COPY docs docs
COPY easyrlhf easyrlhf
RUN TORCH_INDEX_URL="${TORCH_INDEX_URL}" scripts/venv.sh ${EXTRAS}
ENV PATH=/opt/easyrlhf/.venv/bin:$PATH

WORKDIR /work
CMD ["easyrlhf", "--help"]
