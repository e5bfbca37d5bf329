"""Lets vLLM's NCCL engines meet on a CPU: bytes go through the rendezvous' own store, all else is theirs.

As vLLM's plugin `install` is called in every process of a server; a test calls it for the run.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import torch


class Group:
    """In place of vLLM's communicator."""

    def __init__(self, group):
        self.group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream=None) -> None:
        """As NCCL's, but that it waits."""
        sent = self.group.broadcast_obj(tensor if self.group.rank == src else None, src)
        if sent is None:
            raise RuntimeError("the sender is gone")
        tensor.copy_(sent)

    def destroy(self) -> None:
        """End it; whoever waits for bytes gets an error."""
        if self.group.rank == 0:
            self.group.broadcast_obj(None, 0)


def install(patch=setattr) -> None:
    """Replace what a CPU does not have."""
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer import nccl_common, packed_tensor

    def join(master_address: str, master_port: int, rank: int, world_size: int, device: int) -> Group:
        return Group(StatelessProcessGroup.create(master_address, master_port, rank, world_size))

    stream = SimpleNamespace(synchronize=lambda: None)
    patch(nccl_common, "stateless_init_process_group", join)
    patch(packed_tensor, "_get_streams", lambda device, count: (stream,) * count)
    patch(torch.cuda, "stream", nullcontext)
    patch(torch.accelerator, "current_device_index", lambda: 0)
    patch(torch.accelerator, "synchronize", lambda: None)
