"""What a process needs before its first computation, from the command line as from Python."""

import os
from pathlib import Path


def start_jax() -> None:
    """Joins the hosts of a run, and keeps compilations between runs."""
    import jax

    from jaxforget.sharding import join_processes

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxforget" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    join_processes()
