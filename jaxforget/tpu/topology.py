"""Slices by name, and their devices as the TPU compiler knows them, on a machine without any."""

import dataclasses
import importlib.util
import os
import re
from typing import Any

import jax

from jaxforget.errors import UserError, first_line


@dataclasses.dataclass(frozen=True)
class Generation:
    """A TPU generation as Google publishes it (docs.cloud.google.com/tpu/docs and, for v2 and v3, CACM 63-7, 2020).

    Attributes:
      topology: the compiler's name of it.
      shapes: the number in a slice's name -> chips along each axis.
      devices_per_chip: what JAX calls a device: a chip, or one of its two cores.
      tflops: peak bf16 TFLOP/s a chip.
      hbm_gbps: memory bandwidth, 1e9 bytes/s a chip.
      ici_gbps: what a chip sends to its neighbours over all links, one direction, 1e9 bytes/s.
      three_d: a 3D torus of 4x4x4 cubes, two cores fused into one device where `devices_per_chip` is 1.
    """

    topology: str
    shapes: dict[int, tuple[int, ...]]
    devices_per_chip: int
    tflops: float
    hbm_gbps: float
    ici_gbps: float
    three_d: bool = False


_CORES_2D = {8: (2, 2), 32: (4, 4), 128: (8, 8), 256: (8, 16), 512: (16, 16)}
_CORES_3D = {
    8: (2, 2, 1),
    16: (2, 2, 2),
    32: (2, 2, 4),
    64: (2, 4, 4),
    128: (4, 4, 4),
    256: (4, 4, 8),
    512: (4, 8, 8),
    1024: (8, 8, 8),
    2048: (8, 8, 16),
}
_CHIPS_2D = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}

GENERATIONS: dict[str, Generation] = {
    "v2": Generation("v2", _CORES_2D, 2, 46, 700, 248),
    "v3": Generation("v3", {**_CORES_2D, 1024: (16, 32), 2048: (32, 32)}, 2, 123, 900, 328),
    "v4": Generation("v4", _CORES_3D, 1, 275, 1228, 300, three_d=True),
    "v5p": Generation("v5p", _CORES_3D, 1, 459, 2765, 600, three_d=True),
    "v5e": Generation("v5e", _CHIPS_2D, 1, 197, 819, 200),
    "v6e": Generation("v6e", _CHIPS_2D, 1, 918, 1638, 400),
    "tpu7x": Generation("tpu7x", _CORES_3D, 2, 2307, 7380, 600),
}
# The same slices under the names that the cloud's commands use.
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}

# Else the compiler waits for the metadata server of a machine that is not there, complains that it is not, and lets no
# other process compile meanwhile, as if there were a TPU to share.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice: `name` as given, its generation, and its chips along each axis."""

    name: str
    generation: Generation
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many chips it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def devices(self) -> int:
        """How many devices JAX sees in it."""
        return self.chips * self.generation.devices_per_chip

    @property
    def peak_flops(self) -> float:
        """Published peak of one device, bf16 FLOP/s."""
        return self.generation.tflops * 1e12 / self.generation.devices_per_chip

    @property
    def hbm_bandwidth(self) -> float:
        """Published memory bandwidth of one device, bytes/s."""
        return self.generation.hbm_gbps * 1e9 / self.generation.devices_per_chip

    @property
    def ici_bandwidth(self) -> float:
        """Published interconnect bandwidth of one device, bytes/s sent."""
        return self.generation.ici_gbps * 1e9 / self.generation.devices_per_chip


# What JAX calls the devices -> the generation. "TPU v5" is a v5p.
_KINDS = {
    "TPU v2": "v2",
    "TPU v3": "v3",
    "TPU v4": "v4",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
    "TPU7x": "tpu7x",
}


def peak_of(device_kind: str) -> tuple[int, float | None]:
    """(devices a chip, published peak of a chip in bf16 FLOP/s) of JAX's `device_kind`; (1, None) where not a TPU."""
    generation = GENERATIONS.get(_KINDS.get(device_kind, ""))
    return (1, None) if generation is None else (generation.devices_per_chip, generation.tflops * 1e12)


def find_slice(name: str) -> Slice:
    """The slice called `name` ("v5e-8").

    Raises:
      UserError: no such slice; lists those there are.
    """
    kind, _, size = name.strip().lower().rpartition("-")
    generation = GENERATIONS.get(ALIASES.get(kind, kind))
    if generation is None or not re.fullmatch(r"[0-9]+", size) or int(size) not in generation.shapes:
        known = "; ".join(f"{kind}-{'/'.join(map(str, g.shapes))}" for kind, g in GENERATIONS.items())
        raise UserError(f"--slice {name}: no such slice; there are {known}")
    return Slice(name, generation, generation.shapes[int(size)])


def topology_arguments(place: Slice) -> tuple[str, dict[str, Any]]:
    """The compiler's name of a slice, and its further options."""
    name = f"{place.generation.topology}:{'x'.join(map(str, place.shape))}"
    if not place.generation.three_d:
        return name, {}
    return name, {
        "chip_config_name": "megacore",
        "chips_per_host_bounds": (2, 2, 1),
        "num_slices": 1,
        # Links around the ends exist where a slice is made of whole 4x4x4 cubes.
        "wrap": (place.chips >= 64,) * 3,
    }


def slice_devices(place: Slice) -> list[jax.Device]:
    """The devices of a slice, to compile for.

    Raises:
      UserError: the TPU compiler is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("planning for a TPU needs its compiler, the package libtpu: `pip install libtpu` (extra `tpu`)")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    name, options = topology_arguments(place)
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except (RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"--slice {place.name}: this libtpu cannot describe {name} ({reason}); update it") from None
