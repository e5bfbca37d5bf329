"""What all trainers of TRL are told."""

LEARNING_RATE = 1e-12  # every step is computed in full and changes no weight: all pairs are of the same weights
OPTIMISERS = {"cpu": "adamw_torch", "cuda": "adamw_torch_fused"}


def common(device: str, folder: str, **changed) -> dict:
    """Settings of every trainer: no checkpointing of activations, nothing logged or saved between the steps.

    device  cpu or cuda
    """
    return {
        "output_dir": folder,
        "learning_rate": LEARNING_RATE,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": device == "cpu",
        "optim": OPTIMISERS[device],
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        **changed,
    }
