#!/usr/bin/env python3
"""Time loading and saving a model's folder beside transformers, each case in a process of its own.

Run it with .venv/bin/python.

  one     jaxforget, bfloat16, one device         torch   transformers, bfloat16, every weight read
  eight   eight simulated devices                 two     two processes of four devices, each reading its part
  export  jaxforget: load, then save              torch-export  the same with transformers

It prints seconds, peak resident memory beyond the weights (libraries included), the share of the files' bytes that was
read, and the share of the weights on the fullest device. `export` writes beside FOLDER and removes what it wrote.
`scripts/make_random_llama.py` makes folders of any size.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bench.command as command

from jaxforget.errors import UserError

CASES = ("one", "torch", "eight", "two", "export", "torch-export")
SHARD = 5_000_000_000


def resident_peak() -> int:
    """Return the peak of this process's resident bytes, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def exported(folder: Path) -> Iterator[Path]:
    """Provide a new folder beside `folder`, on the same disk, and remove it afterwards, also after an error."""
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.exported-", dir=folder.parent) as name:
        yield Path(name)


def saved(target: Path, start: float) -> dict[str, Any]:
    """Return the seconds of saving, until the call returned and until the disk had all bytes."""
    found: dict[str, Any] = {"export_seconds": time.perf_counter() - start, "peak": resident_peak()}
    for path in target.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    return found | {"synced_seconds": time.perf_counter() - start, "files": len(list(target.glob("*.safetensors")))}


def ours(folder: Path, case: str) -> dict[str, Any]:
    """Load with jaxforget and count the bytes that are read."""
    import jax

    from jaxforget.lm.forward import param_shardings
    from jaxforget.models.export import save_params
    from jaxforget.models.folders import read_config
    from jaxforget.models.load import Checkpoint, load_params
    from jaxforget.sharding import make_mesh
    from jaxforget.start import join_processes

    if case == "two":
        join_processes()
    read = []
    original = Checkpoint.read_into

    def counted(self: Checkpoint, out: Any, tensor: str, region: Any, transposed: bool) -> None:
        read.append(self.files[tensor].view(tensor)[region].nbytes)
        original(self, out, tensor, region, transposed)

    Checkpoint.read_into = counted
    config, raw = read_config(folder)
    start = time.perf_counter()
    params = load_params(folder, config, dtype="bfloat16", shardings=param_shardings(config, make_mesh()))
    jax.block_until_ready(params)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start, "peak": resident_peak(), "read": sum(read)}
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    found |= {"weights": sum(held.values()), "fullest_device": max(held.values())}
    if case == "export":
        with exported(folder) as target:
            start = time.perf_counter()
            save_params(
                target, params, config, raw, None, dtype="bfloat16", max_shard_bytes=SHARD, model_card="# exported\n"
            )
            found |= saved(target, start)
    return found


def theirs(folder: Path, case: str) -> dict[str, Any]:
    """Load with transformers and read every mapped weight."""
    import torch
    from transformers import LlamaForCausalLM

    start = time.perf_counter()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    # A mapped weight takes no memory until it is read.
    for parameter in model.parameters():
        parameter.detach().view(torch.int16).sum()
    found: dict[str, Any] = {"seconds": time.perf_counter() - start, "peak": resident_peak()}
    found["weights"] = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if case == "torch-export":
        with exported(folder) as target:
            start = time.perf_counter()
            model.save_pretrained(target, max_shard_size=SHARD)
            found |= saved(target, start)
    return found


def measure(folder: Path, case: str) -> list[dict[str, Any]]:
    """Run a case in processes of its own and return one record for each."""
    devices, count = {"eight": (8, 1), "two": (4, 2)}.get(case, (1, 1))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), "--inside", case],
            env=environment | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    found = []
    try:
        for process in started:
            answer, _ = process.communicate()
            if process.returncode:
                command.unanswered(f"case {case}", process.returncode)
            found.append({"case": case, **json.loads(answer.splitlines()[-1])})
            if "fault" in found[-1]:
                raise UserError(f"case {case}: {found[-1]['fault']}")
    finally:
        for process in started:
            process.kill()  # it may wait for another process that has ended
    return found


def as_text(found: list[dict[str, Any]], size: int) -> str:
    """Return the records as a table."""
    lines = [f"files: {size / 1e9:.2f} GB", f"{'case':14}{'s':>8}{'peak beyond weights':>22}{'read':>8}{'fullest':>10}"]
    for row in found:
        beyond = (row["peak"] - row["weights"]) / 2**30
        read = f"{row['read'] / size:.1%}" if "read" in row else "-"
        fullest = f"{row['fullest_device'] / size:.1%}" if "fullest_device" in row else "-"
        told = ""
        if "files" in row:
            told = (
                f"  saved in {row['files']} files in {row['export_seconds']:.1f} s, on disk {row['synced_seconds']:.1f}"
            )
        lines.append(f"{row['case']:14}{row['seconds']:8.1f}{beyond:18.2f} GiB{read:>8}{fullest:>10}{told}")
    return "\n".join(lines)


def check(folder: Path, cases: Sequence[str]) -> None:
    """Raise `UserError` for anything that would make one of `cases` fail, perhaps after minutes."""
    from jaxforget.models.folders import read_config
    from jaxforget.models.layout import parameter_count
    from jaxforget.models.load import Checkpoint

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; scripts/make_random_llama.py makes one")
    config, _ = read_config(folder)
    Checkpoint(folder).check(config)
    if any("torch" in case for case in cases):
        others = " ".join(f"--case {case}" for case in CASES if "torch" not in case)
        command.require("torch", f"scripts/test installs it; or give {others}")
    if any("export" in case for case in cases):
        others = " ".join(f"--case {case}" for case in CASES if "export" not in case)
        # Two bytes a weight; one copy exists at a time.
        command.check_room(folder.resolve().parent, 2 * parameter_count(config), f"move {folder}, or give {others}")


def inside(folder: Path, case: str) -> dict[str, Any]:
    """Return the figures of a case, or {"fault"}: a user's error in one line."""
    try:
        return (theirs if case.startswith("torch") else ours)(folder, case)
    except KeyboardInterrupt:
        sys.exit(130)  # the parent process reports it
    except Exception as error:
        if (line := command.fault_line(error)) is None:
            raise
        return {"fault": line}


def main(words: Sequence[str]) -> None:
    """Measure and print."""
    parser = command.Parser(__file__, __doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--case", action="append", choices=CASES, help="run only this case; may be repeated [all]")
    parser.add_argument("--inside", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    if given.inside:
        print(json.dumps(inside(given.folder, given.inside)))
        return
    cases = given.case or CASES
    check(given.folder, cases)
    size = sum(path.stat().st_size for path in given.folder.glob("*.safetensors"))
    found = [row for case in cases for row in measure(given.folder.resolve(), case)]
    print(json.dumps(found, indent=1) if given.json else as_text(found, size))


if __name__ == "__main__":
    command.run(__file__, main)
