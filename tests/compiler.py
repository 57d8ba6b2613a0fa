"""Options of XLA's CPU compiler by which the programs of the tests compile in a quarter of the time."""

from importlib.metadata import version

# The programs run for milliseconds: the compiler's last passes, and the division of a program among threads, take
# longer than they save.
QUICK_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# XLA's emitters of fusions take two thirds of the compiler's time. From jaxlib 0.11 on there are no others, and XLA
# ends a process that sets an option it does not know.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK_FLAGS += " --xla_cpu_use_fusion_emitters=false"


def xla_flags(devices: int) -> str:
    """Return the value of `XLA_FLAGS` for a process with `devices` CPU devices."""
    return f"{QUICK_FLAGS} --xla_force_host_platform_device_count={devices}"
