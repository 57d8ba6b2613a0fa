"""Options of XLA's CPU compiler by which the programs of the tests compile in a quarter of the time."""

from importlib.metadata import version

# The programs run for milliseconds: the compiler's last passes, and the division of a program among threads, take
# longer than they save.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# XLA's emitters of fusions take two thirds of the compiler's time. From jaxlib 0.11 on there are no others.
EARLIER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
HAS_EARLIER_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)


def xla_flags(devices: int, *, tpu_compiler: bool = False) -> str:
    """Return the value of `XLA_FLAGS` for a process with `devices` CPU devices.

    Args:
      devices: number of CPU devices.
      tpu_compiler: the process loads libtpu, which reads the variable, too, and ends a process at a flag that it does
        not know, as that of the earlier emitters.
    """
    flags = f"{QUICK} --xla_force_host_platform_device_count={devices}"
    return f"{flags} {EARLIER_EMITTERS}" if HAS_EARLIER_EMITTERS and not tpu_compiler else flags
