"""Every measure by its name. Loads no torch."""

import importlib
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass

from speed.results import Result


@dataclass(frozen=True)
class Measure:
    """Where a measure is, and what its process needs.

    function        module:function, which takes Options and returns Results
    threads         numbers of CPU threads that it is measured with
    needs_ppo_peer  whether trl 1.12.0 must stand before the installed TRL
    on_gpu          whether it says something there as well
    """

    function: str
    threads: tuple[int, ...] = (1,)
    needs_ppo_peer: bool = False
    on_gpu: bool = True


MEASURES = {
    "P1": Measure("online:p1", threads=(1, 2), needs_ppo_peer=True),
    "P2": Measure("online:p2", needs_ppo_peer=True, on_gpu=False),
    "P3": Measure("online:p3", needs_ppo_peer=True),
    "P4": Measure("online:p4", needs_ppo_peer=True),
    "R1": Measure("offline:r1"),
    "R2": Measure("offline:r2"),
    "S1": Measure("offline:s1", on_gpu=False),
    "S2": Measure("offline:s2"),
    "D1": Measure("offline:d1"),
    "K1": Measure("offline:k1"),
    "O1": Measure("online:o1"),
    "G1": Measure("sampling:g1"),
    "G2": Measure("sampling:g2"),
    "U1": Measure("roofline:u1", on_gpu=False),
    "U2": Measure("roofline:u2"),
    "M1": Measure("memory:m1", needs_ppo_peer=True),
    "T1": Measure("startup:t1", on_gpu=False),
}


def measures_on(device: str) -> list[str]:
    """Names of the measures that say something on a device, cpu or cuda."""
    return [name for name, measure in MEASURES.items() if measure.on_gpu or device == "cpu"]


def run_measure(name: str, **asked) -> list[Result]:
    """Measure in this process, with these fields of Options; what the libraries print goes to stderr."""
    from speed.measure import Options

    module, function = MEASURES[name].function.split(":")
    with redirect_stdout(sys.stderr):
        return getattr(importlib.import_module(f"speed.{module}"), function)(Options(**asked))
