"""What a process needs before its first computation, from the command line as from Python."""

import importlib.util
import os
from pathlib import Path

from jaxforget.errors import UserError

# With libtpu installed (it is what plans compile with) and no TPU, JAX asks libtpu for devices and libtpu complains
# that it knows no host and no accelerator. Told some, it looks, finds nothing, and says nothing.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


def start_jax() -> None:
    """Joins the hosts of a run, and keeps compilations between runs. A second call does nothing.

    Raises:
      UserError: there are hosts to join, and this process has computed before.
    """
    if importlib.util.find_spec("libtpu") is not None and not _has_tpu(Path("/dev")):
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)
    import jax

    from jaxforget.sharding import join_processes

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxforget" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if jax.distributed.is_initialized():
        return
    try:
        join_processes()
    except RuntimeError as error:
        if "before any JAX" not in str(error):
            raise
        raise UserError(
            "this process has used JAX before the hosts of the run were joined; call jaxforget.run, or "
            "jax.distributed.initialize(), first"
        ) from None


def _has_tpu(devices: Path) -> bool:
    """Whether the kernel shows a TPU's device files, under either of the names that generations use."""
    return any(devices.glob("accel[0-9]*")) or any(devices.glob("vfio/[0-9]*"))
