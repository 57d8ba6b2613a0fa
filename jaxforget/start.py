"""Start of JAX: join the hosts of a run, choose the platform, and set the compilation cache."""

import atexit
import importlib
import importlib.util
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

from jaxforget.errors import UserError, first_line

# With libtpu installed (plans compile with it) and no TPU, JAX asks libtpu for devices, and libtpu prints errors about
# an unknown host and accelerator. With these values it searches, finds nothing, and prints nothing.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
# Names of the share of a GPU's memory that JAX may take; JAX reads either, and refuses both together.
_GPU_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_GPU_SHARE = "0.95"  # the rest is for what CUDA and its libraries allocate themselves
_ZSTD = b"\x28\xb5\x2f\xfd"  # how a frame of zstandard begins
_LARGEST_ENTRY = 4 * 2**30
_WRITING_SECONDS = 60.0
PATIENCE = 300.0  # seconds that hosts wait for each other, because they are set up one by one
LOST_SECONDS = 30  # a process that is silent for so long is lost, and the others end
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"
_METADATA_SECONDS = 3.0
_METADATA_TRIES = 3
_EVERY_WORKER = (
    "run the same command on every worker (scripts/tpu_vm run, or gcloud compute tpus tpu-vm ssh --worker=all); "
    "JAX_PLATFORMS=cpu uses this host's processors alone, TPU_PROCESS_BOUNDS=1,1,1 "
    "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 its chips alone"
)
_EVERY_PROCESS = "start all of JAX_NUM_PROCESSES, each with its own JAX_PROCESS_ID, or unset JAX_COORDINATOR_ADDRESS"


def start_jax(*, alone: bool = False) -> None:
    """Join the hosts of a run and store compilations between runs. A second call does nothing.

    Args:
      alone: True for a command that runs on one host only. On a host of a pod it then uses the CPU, because the chips
        of a pod work only when all hosts use them.

    Raises:
      UserError: there are other hosts, and this process used JAX before, or not all hosts joined in time.
    """
    useless = importlib.util.find_spec("libtpu") is not None and not _has_tpu(Path("/dev"))
    if useless:
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)
    allow_whole_gpu()
    import jax

    if useless and not _has_gpu(Path("/dev")) and not jax.config.jax_platforms:
        # There is no chip to search for, and the profiler crashes in a process in which JAX loaded libtpu.
        jax.config.update("jax_platforms", "cpu")

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxforget" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if cache := jax.config.jax_compilation_cache_dir:
        remove_broken_cache_entries(cache)
    if jax.distributed.is_initialized():
        return
    if not alone:
        join_processes()
    elif (hosts := count_hosts()) > 1:
        print(f"one of {hosts} hosts alone: computing on its CPU", file=sys.stderr, flush=True)
        jax.config.update("jax_platforms", "cpu")


def remove_broken_cache_entries(folder: str) -> list[Path]:
    """Remove entries of a compilation cache that a killed process left half-written; return them.

    JAX writes an entry in place. It warns about one that it cannot read in every later run and never replaces it.
    Entries that an earlier call has checked are not read again: the time of the file `.checked` says which. Entries
    younger than a minute are skipped, because another process may be writing them. A cache that cannot be read or
    written is left alone.

    Args:
      folder: the cache; a folder that does not exist, or lies in a bucket, is left alone.
    """
    stamp = Path(folder) / ".checked"
    removed: list[Path] = []
    now = time.time() - _WRITING_SECONDS
    try:
        since = stamp.stat().st_mtime if stamp.exists() else 0.0
        for entry in Path(folder).glob("*-cache"):
            if since <= entry.stat().st_mtime < now and not _is_whole(entry.read_bytes()):
                entry.unlink()
                removed.append(entry)
        if Path(folder).is_dir():
            stamp.touch()
            os.utime(stamp, (now, now))
    except OSError:
        pass  # a cache that cannot be written costs time alone
    return removed


def _is_whole(entry: bytes) -> bool:
    """Return False if the compressed content of a cache's entry ends early, True if it cannot be told."""
    try:
        if entry[:4] == _ZSTD:
            # JAX uses this package where it is installed.
            importlib.import_module("zstandard").ZstdDecompressor().decompress(entry, max_output_size=_LARGEST_ENTRY)
        else:
            zlib.decompress(entry)
    except ImportError:
        return True
    except Exception:  # each library has errors of its own
        return False
    return True


def allow_whole_gpu() -> None:
    """Let JAX take nearly all of a GPU's memory rather than 75 %. Call it before JAX's first computation.

    A share that the user set, under either name, stays as it is; so does XLA_PYTHON_CLIENT_PREALLOCATE.

    Raises:
      UserError: the user set the share under both names.
    """
    given = [name for name in _GPU_SHARES if os.environ.get(name)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are both set, which JAX refuses; unset {given[1]}")
    if not given:
        os.environ[_GPU_SHARES[0]] = _GPU_SHARE


def join_processes(patience: float = PATIENCE) -> None:
    """Join the hosts of a pod, or the processes that JAX_COORDINATOR_ADDRESS and its companions describe.

    A single process needs no joining. Call this once, before the first computation. From then on JAX's own handler
    takes SIGTERM and tells the other hosts; see `jaxforget.train.loop`.

    Args:
      patience: seconds to wait for the other hosts.

    Raises:
      UserError: JAX_NUM_PROCESSES or JAX_PROCESS_ID is missing; this process used JAX before; a host is missing after
        `patience` seconds. JAX cannot start again in this process, which ends with status 2.
    """
    import jax

    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS")
    # The wait ends here: JAX's own timeout would end the process with a stack trace.
    endless = int(patience) + 10**6
    if coordinator is not None:
        try:
            count, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
        except (KeyError, ValueError):
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set; set JAX_NUM_PROCESSES and JAX_PROCESS_ID to whole numbers, too"
            ) from None
        if jax.config.jax_platforms == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        _join(
            f"{count} processes",
            lambda: jax.distributed.initialize(
                coordinator, count, index, initialization_timeout=endless, heartbeat_timeout_seconds=LOST_SECONDS
            ),
            patience,
            _EVERY_PROCESS,
        )
    elif (hosts := count_hosts()) > 1:
        # The platform tells JAX the addresses.
        _join(
            f"{hosts} hosts",
            lambda: jax.distributed.initialize(initialization_timeout=endless, heartbeat_timeout_seconds=LOST_SECONDS),
            patience,
            _EVERY_WORKER,
        )


def _join(whom: str, initialize: Callable[[], None], patience: float, remedy: str) -> None:
    """Call `initialize`, which waits for all processes, in a thread, so that this thread receives Ctrl-C."""
    print(f"joining {whom} ...", file=sys.stderr, flush=True)
    faults: list[Exception] = []

    def work() -> None:
        try:
            initialize()
        except Exception as fault:
            faults.append(fault)

    # Without this, JAX would wait for the others again when the process ends.
    atexit.register(_leave)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        raise UserError(f"joining {whom}: not all joined within {patience:.0f} s; {remedy}")
    atexit.unregister(_leave)
    if not faults:
        return
    if "before any JAX" in str(faults[0]):
        raise UserError(
            "this process has used JAX before the hosts of the run were joined; call jaxforget.run, or "
            "jax.distributed.initialize(), first"
        )
    raise UserError(f"joining {whom}: {first_line(faults[0])}; {remedy}") from faults[0]


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def count_hosts() -> int:
    """Return the number of hosts that share the TPU slices of this process; 1 if it uses none.

    The environment tells it on Kubernetes (TPU_PROCESS_ADDRESSES, TPU_WORKER_HOSTNAMES, MEGASCALE_NUM_SLICES), the
    metadata server on machines that gcloud made. TPU_SKIP_MDS_QUERY disables that server; TPU_PROCESS_BOUNDS=1,1,1
    restricts libtpu, and this function, to one host.
    """
    import jax

    platforms = jax.config.jax_platforms
    if platforms and "tpu" not in platforms.split(","):
        return 1
    if importlib.util.find_spec("libtpu") is None or not _has_tpu(Path("/dev")):
        return 1
    if os.environ.get("TPU_PROCESS_BOUNDS") == "1,1,1":
        return 1
    workers = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    slices = os.environ.get("MEGASCALE_NUM_SLICES")
    if "TPU_SKIP_MDS_QUERY" not in os.environ:
        try:
            if workers is None:
                workers = _attribute("worker-network-endpoints")
            if workers is not None and slices is None:
                # Lines such as MEGASCALE_NUM_SLICES: '2'
                named = re.search(r"^\s*MEGASCALE_NUM_SLICES\s*:\s*'?(\d+)", _attribute("tpu-env") or "", re.MULTILINE)
                slices = named[1] if named else None
        except ConnectionError as error:
            if workers is None:
                print(f"{error}: no other hosts are joined", file=sys.stderr, flush=True)
    try:
        return len((workers or "").split(",")) * int(slices or 1)
    except ValueError:
        raise UserError(f"MEGASCALE_NUM_SLICES={slices}: is not a whole number; unset it or give one") from None


def _attribute(name: str) -> str | None:
    """Return the attribute `name` of this machine from the cloud's metadata server; None if it has none.

    Raises:
      ConnectionError: the server does not answer.
    """
    address = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(_METADATA.format(address, name), headers={"Metadata-Flavor": "Google"})
    # The server belongs to this machine, so a proxy cannot reach it.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for left in reversed(range(_METADATA_TRIES)):
        try:
            with direct.open(request, timeout=_METADATA_SECONDS) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
        except OSError:
            pass
        if left:
            time.sleep(0.5)
    raise ConnectionError(f"{address}: no answer about {name}")


def _has_tpu(devices: Path) -> bool:
    """Return True if the kernel shows the device files of a TPU, under either name that generations use."""
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def _has_gpu(devices: Path) -> bool:
    """Return True if there are device files of a GPU driver: NVIDIA, AMD, or either through Windows."""
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("kfd", "dxg"))
