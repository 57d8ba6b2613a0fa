"""TPU slices by name, and their devices for the TPU compiler on a machine without a TPU."""

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
      topology: the compiler's name of the generation.
      shapes: the number in a slice's name -> chips along each axis.
      devices_per_chip: devices of JAX in a chip: 1, or 2 if each core is a device.
      tflops: peak bf16 TFLOP/s a chip.
      hbm_gbps: memory bandwidth, 1e9 bytes/s a chip.
      ici_gbps: interconnect bandwidth of a chip, sent over all links, 1e9 bytes/s.
      three_d: True for a 3D torus of 4x4x4 cubes; two cores are one device if `devices_per_chip` is 1.
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
# The names of the same generations in the cloud's commands.
ALIASES = {"v5litepod": "v5e", "v5lite": "v5e"}

# Without these variables the compiler waits for the metadata server of a TPU machine, prints errors because there is
# none, and locks out other processes as if they shared a TPU.
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
    """A slice of a TPU generation.

    Attributes:
      name: the name as the user gave it.
      generation: the generation.
      shape: chips along each axis.
    """

    name: str
    generation: Generation
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
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


# JAX's `device_kind` -> the generation. "TPU v5" is a v5p.
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
    """Return (devices a chip, published peak of a chip in bf16 FLOP/s) of JAX's `device_kind`; (1, None) if no TPU."""
    generation = GENERATIONS.get(_KINDS.get(device_kind, ""))
    return (1, None) if generation is None else (generation.devices_per_chip, generation.tflops * 1e12)


def find_slice(name: str) -> Slice:
    """Return the slice called `name`, as "v5e-8".

    Raises:
      UserError: there is no such slice; the message lists the known ones.
    """
    kind, _, size = name.strip().lower().rpartition("-")
    generation = GENERATIONS.get(ALIASES.get(kind, kind))
    if generation is None or not re.fullmatch(r"[0-9]+", size) or int(size) not in generation.shapes:
        known = "; ".join(f"{kind}-{'/'.join(map(str, g.shapes))}" for kind, g in GENERATIONS.items())
        raise UserError(f"--slice {name}: no such slice; there are {known}")
    return Slice(name, generation, generation.shapes[int(size)])


def topology_arguments(place: Slice) -> tuple[str, dict[str, Any]]:
    """Return the compiler's name of a slice and its further options."""
    name = f"{place.generation.topology}:{'x'.join(map(str, place.shape))}"
    if not place.generation.three_d:
        return name, {}
    return name, {
        "chip_config_name": "megacore",
        "chips_per_host_bounds": (2, 2, 1),
        "num_slices": 1,
        # Only a slice of whole 4x4x4 cubes has links between opposite ends.
        "wrap": (place.chips >= 64,) * 3,
    }


def slice_devices(place: Slice) -> list[jax.Device]:
    """Return the devices of a slice, for which programs can be compiled but not run.

    Raises:
      UserError: the TPU compiler is not installed, or it does not know the slice.
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
