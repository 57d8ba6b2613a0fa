"""What a process needs before its first computation, from the command line as from Python."""

import atexit
import importlib.util
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from jaxforget.errors import UserError, first_line

# With libtpu installed (it is what plans compile with) and no TPU, JAX asks libtpu for devices and libtpu complains
# that it knows no host and no accelerator. Told some, it looks, finds nothing, and says nothing.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
# Names of the share of a GPU's memory that JAX may take; JAX reads either, and refuses both together.
_GPU_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_GPU_SHARE = "0.95"  # the rest is for what CUDA and its libraries allocate themselves
PATIENCE = 300.0  # seconds that hosts wait for each other: they are set up one by one
_METADATA = "http://{}/computeMetadata/v1/instance/attributes/{}"
_METADATA_SECONDS = 3.0
_METADATA_TRIES = 3
_EVERY_WORKER = (
    "the same command must run on every worker (scripts/tpu_vm run, or gcloud compute tpus tpu-vm ssh --worker=all); "
    "JAX_PLATFORMS=cpu uses this host's processors alone, TPU_PROCESS_BOUNDS=1,1,1 "
    "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1 its chips alone"
)
_EVERY_PROCESS = "start all of JAX_NUM_PROCESSES, each with its own JAX_PROCESS_ID, or unset JAX_COORDINATOR_ADDRESS"


def start_jax(*, alone: bool = False) -> None:
    """Joins the hosts of a run, and keeps compilations between runs. A second call does nothing.

    Args:
      alone: the command works on one host for itself. One of a pod then computes on its own processors: its chips
        answer only when all hosts ask.

    Raises:
      UserError: there are hosts to join, and this process has computed before, or not all of them came.
    """
    useless = importlib.util.find_spec("libtpu") is not None and not _has_tpu(Path("/dev"))
    if useless:
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)
    allow_whole_gpu()
    import jax

    if useless and not _has_gpu(Path("/dev")) and not jax.config.jax_platforms:
        # There is nothing to look for; and the profiler crashes where JAX has loaded libtpu to look for chips.
        jax.config.update("jax_platforms", "cpu")

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxforget" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if jax.distributed.is_initialized():
        return
    if not alone:
        join_processes()
    elif (hosts := count_hosts()) > 1:
        print(f"one of {hosts} hosts alone: computing on its processors", file=sys.stderr, flush=True)
        jax.config.update("jax_platforms", "cpu")


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
    """Joins the hosts of a pod, or the processes named by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    A single process needs none of it. Called once, before the first computation. From then on JAX's own handler takes
    SIGTERM and tells the other hosts; see `jaxforget.train.loop`.

    Raises:
      UserError: half a description of processes; this process has computed before; after `patience` seconds some host
        is missing. JAX is then left halfway, so a new process is needed to try again; this one ends with status 2.
    """
    import jax

    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS")
    # Given up here and not in JAX, which ends the whole process with a stack trace when its own time is up.
    endless = int(patience) + 10**6
    if coordinator is not None:
        try:
            count, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
        except (KeyError, ValueError):
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set; JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers beside it"
            ) from None
        if jax.config.jax_platforms == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        _join(
            f"{count} processes",
            lambda: jax.distributed.initialize(coordinator, count, index, initialization_timeout=endless),
            patience,
            _EVERY_PROCESS,
        )
    elif (hosts := count_hosts()) > 1:
        # Who they are, the platform tells JAX.
        _join(
            f"{hosts} hosts",
            lambda: jax.distributed.initialize(initialization_timeout=endless),
            patience,
            _EVERY_WORKER,
        )


def _join(whom: str, initialize: Callable[[], None], patience: float, mend: str) -> None:
    """Calls `initialize`, which returns when all are there; it waits in a thread, so that this one hears Ctrl-C."""
    print(f"joining {whom} ...", file=sys.stderr, flush=True)
    faults: list[Exception] = []

    def work() -> None:
        try:
            initialize()
        except Exception as fault:
            faults.append(fault)

    # Left halfway, JAX would wait for the others once more when the process ends.
    atexit.register(_leave)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        raise UserError(f"joining {whom}: not all came within {patience:.0f} s; {mend}")
    atexit.unregister(_leave)
    if not faults:
        return
    if "before any JAX" in str(faults[0]):
        raise UserError(
            "this process has used JAX before the hosts of the run were joined; call jaxforget.run, or "
            "jax.distributed.initialize(), first"
        )
    raise UserError(f"joining {whom}: {first_line(faults[0])}; {mend}") from faults[0]


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def count_hosts() -> int:
    """How many hosts share the TPU slices that this process is going to use; 1 where it uses none.

    The environment says so on Kubernetes (TPU_PROCESS_ADDRESSES, TPU_WORKER_HOSTNAMES, MEGASCALE_NUM_SLICES), the
    metadata server on machines that gcloud made. TPU_SKIP_MDS_QUERY keeps from asking it; TPU_PROCESS_BOUNDS=1,1,1
    tells libtpu, and here, to leave the other hosts alone.
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
                print(f"{error}: hosts that it would name are not joined", file=sys.stderr, flush=True)
    try:
        return len((workers or "").split(",")) * int(slices or 1)
    except ValueError:
        raise UserError(f"MEGASCALE_NUM_SLICES={slices}: is not a whole number; unset it or give one") from None


def _attribute(name: str) -> str | None:
    """What the cloud's metadata server says of this machine under `name`; None where that is nothing.

    Raises:
      ConnectionError: it does not answer.
    """
    address = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(_METADATA.format(address, name), headers={"Metadata-Flavor": "Google"})
    # It is this machine's own: no proxy knows it.
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
    """Whether the kernel shows a TPU's device files, under either of the names that generations use."""
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))


def _has_gpu(devices: Path) -> bool:
    """Whether there are device files of NVIDIA's driver, AMD's, or of either through Windows."""
    return any(devices.glob("nvidia[0-9]*")) or any((devices / name).exists() for name in ("kfd", "dxg"))
