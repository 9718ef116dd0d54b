"""Emulators whose networks compute one globe together with those of other processes.

Invariant: every process that holds the same emulator asks the same of it, in the same order, and gets whole fields.
"""

from __future__ import annotations

from emukit.data.residency import free_memory
from emukit.emulators.base import Emulator
from emukit.emulators.neural import NeuralEmulator
from emukit.emulators.wrapper import Wrapper
from emukit.errors import RunError
from emukit.parallel.comm import Comm
from emukit.parallel.domain import DividedSphere, check_divisible, divide


def share_globe(emulator: Emulator, comm: Comm) -> None:
    """Divide the globe of every network of an emulator over processes that hold the same emulator.

    What is saved of it is as before: parameters stay whole, with their names. A network that does not fit on the
    devices of these processes stays whole, where it is.

    Raises:
        TrainingError: A network cannot be divided, or has too few cells.
        RunError: It is a trajectory.
    """
    if comm.domain.world == 1:
        return
    for part in _networks(emulator):
        if part.sphere.divided:
            continue
        if part.from_beginning:
            raise RunError("a trajectory is not divided in space", hint="leave --domain out")
        check_divisible(part.network_name, type(part.network))
        if not _brought(part, comm):
            continue
        part.sphere = sphere = DividedSphere(comm.domain, part.grid.shape)
        divide(part.network, sphere)


def _brought(part: NeuralEmulator, comm: Comm) -> bool:
    """Whether the network is, or now is, where processes speak with each other: GPUs do so from GPU to GPU alone."""
    if part.device.type == comm.device.type:
        return True
    size = sum(t.nbytes for t in (*part.network.parameters(), *part.network.buffers()))
    if comm.any(size > free_memory(comm.device)):
        return False
    part.network.to(comm.device)
    return True


def _networks(emulator: Emulator) -> list[NeuralEmulator]:
    if isinstance(emulator, Wrapper):
        return [part for base in emulator.bases for part in _networks(base)]
    return [emulator] if isinstance(emulator, NeuralEmulator) else []
