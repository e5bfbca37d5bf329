"""The arithmetic of memory: what models, gradients and optimisers take on each of several devices, phase by phase."""

from collections import Counter
from dataclasses import dataclass, field

WEIGHTS, GRADIENTS, OPTIMISER = "weights", "gradients", "optimiser"
ACTIVATIONS, LOGITS, KV_CACHE, VLLM = "activations", "logits", "KV cache", "vLLM"
HOST = "in the host's memory"  # activations that wait there; on no device
KINDS = (WEIGHTS, GRADIENTS, OPTIMISER, ACTIVATIONS, LOGITS, KV_CACHE, VLLM)

FLOAT32, BFLOAT16 = 4, 2
MOMENTS = 2 * FLOAT32  # AdamW's two
KEPT_FREE = 0.1  # share of the memory for what is not counted: fragments, kernels' workspaces, the driver
FETCHED = 2  # parts whose weights ZeRO-3 has gathered: the one in use and the next
FETCHED_BY_FSDP = 4  # the head as long as a pass lasts, a part in use, and both once more while they arrive
FSDP2 = "fsdp2"

STATES = (WEIGHTS, GRADIENTS, OPTIMISER)
SHARDED = {
    "none": (),
    "zero2": (GRADIENTS, OPTIMISER),
    "zero3": STATES,
    "zero2_offload": (GRADIENTS, OPTIMISER),
    "zero3_offload": STATES,
    FSDP2: STATES,
}

Bytes = dict[str, float]  # kind → bytes


@dataclass(frozen=True)
class Machine:
    """So many devices of one kind, with so many bytes each, and how training is spread over them.

    kind       cpu or cuda
    deepspeed  one of SHARDED: how --deepspeed or --sharding spreads it
    """

    kind: str
    count: int
    memory: float
    deepspeed: str = "none"

    @property
    def usable(self) -> float:
        """Bytes of a device that may be used."""
        return (1 - KEPT_FREE) * self.memory

    @property
    def offloads(self) -> bool:
        """Whether what is sharded lies in the memory of the host."""
        return self.deepspeed.endswith("_offload")


@dataclass(frozen=True)
class Held:
    """What a model takes in all, on however many devices.

    weights          bytes
    trained          parameters that are trained
    mastered         those of them whose weights are not float32, which have a float32 master copy
    largest_part     bytes of the weights of its largest layer or embedding
    largest_trained  elements of its largest trained tensor
    """

    weights: float
    trained: int = 0
    mastered: int = 0
    largest_part: float = 0
    largest_trained: int = 0

    def states(self, deepspeed: str = "none") -> Bytes:
        """Bytes of weights, of float32 gradients, and of master copies and AdamW's moments.

        DeepSpeed has master copies of float32 weights too; under FSDP2 there are these alone, and no rounded weights.
        """
        copied = self.mastered if deepspeed in ("none", FSDP2) else self.trained
        optimiser = FLOAT32 * copied + MOMENTS * self.trained
        weights = self.weights - (BFLOAT16 * self.mastered if deepspeed == FSDP2 else 0)
        return {WEIGHTS: weights, GRADIENTS: FLOAT32 * self.trained, OPTIMISER: optimiser}

    def on_device(self, machine: Machine) -> Bytes:
        """The states' bytes on each device."""
        sharded = SHARDED[machine.deepspeed]
        share = 0 if machine.offloads else 1 / machine.count
        states = self.states(machine.deepspeed)
        found = {kind: size * (share if kind in sharded else 1) for kind, size in states.items()}
        if WEIGHTS in sharded:
            fetched = FETCHED_BY_FSDP if machine.deepspeed == FSDP2 else FETCHED
            found[WEIGHTS] = min(self.weights, found[WEIGHTS] + fetched * self.largest_part)
        return found

    def on_host(self, machine: Machine) -> float:
        """Bytes in the memory of the host, for all devices together."""
        states = self.states(machine.deepspeed)
        return sum(states[kind] for kind in SHARDED[machine.deepspeed]) if machine.offloads else 0.0

    def step_scratch(self, machine: Machine) -> float:
        """Bytes that AdamW's step needs for a moment on each device: of all parameters at once on a GPU."""
        if machine.kind == "cpu":
            return 2 * FLOAT32 * self.largest_trained
        share = 0 if machine.offloads else 1 / machine.count if machine.deepspeed != "none" else 1
        return FLOAT32 * self.trained * share


@dataclass(frozen=True)
class Phase:
    """A part of a stage's step, and what is in memory during it.

    weights, gradients, optimisers  names of the models whose are there
    working                         kind → bytes that come and go
    gathered                        names of models that every device has a whole copy of, where weights are spread
    """

    name: str
    weights: tuple[str, ...]
    optimisers: tuple[str, ...] = ()
    gradients: tuple[str, ...] = ()
    working: Bytes = field(default_factory=dict)
    gathered: tuple[str, ...] = ()

    def on_device(self, models: dict[str, Held], machine: Machine) -> Bytes:
        """Bytes of every kind on each device."""
        found = Counter(self.working)
        for kind, names in ((WEIGHTS, self.weights), (OPTIMISER, self.optimisers), (GRADIENTS, self.gradients)):
            for name in names:
                found[kind] += models[name].on_device(machine)[kind]
        if WEIGHTS in SHARDED[machine.deepspeed]:
            found[WEIGHTS] += sum(models[name].weights for name in self.gathered)
        return {kind: found[kind] for kind in KINDS}


@dataclass(frozen=True)
class MemoryPlan:
    """A stage on a machine: its models and its phases."""

    models: dict[str, Held]
    phases: list[Phase]
    machine: Machine

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=self.bytes_of)

    def bytes_of(self, phase: Phase) -> float:
        """Bytes of a phase on each device."""
        return sum(phase.on_device(self.models, self.machine).values())

    @property
    def needed(self) -> float:
        """Bytes that each device must have free."""
        return self.bytes_of(self.peak)

    @property
    def fits(self) -> bool:
        """Whether that is there."""
        return self.needed <= self.machine.usable

    @property
    def host(self) -> float:
        """Bytes in the memory of the host, for all devices together."""
        waiting = max((phase.working.get(HOST, 0) for phase in self.phases), default=0)
        return sum(held.on_host(self.machine) for held in self.models.values()) + self.machine.count * waiting
