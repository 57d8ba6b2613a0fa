"""The compiler's refusals, in its own words."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxforget.tpu.compiler import Compiled, compile_with_text, first_line, no_cache, parse_refusal

ESTIMATE = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (52.27G) exceeds available HBM (15.75G). HLO module: jit_step.\nSee https://openxla.org/xla/errors"
)
SCHEDULED = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom:\nXLA:TPU compile permanent error. Ran out of memory in memory space "
    "hbm. Used 16.30G of 15.75G hbm. Exceeded hbm capacity by 563.20M. HLO module: jit_step."
)
VECTOR = (
    "RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom:\nRan out of memory in memory space vmem while allocating on "
    "stack for %fusion.4. Scoped allocation with size 16.25M and limit 16.00M exceeded scoped vmem limit by 256.0K."
)
FAULT = "INTERNAL: RET_CHECK failure (while_loop_all_reduce_code_motion.cc:1112) user->opcode() == HloOpcode::kAdd"


@pytest.mark.parametrize(("message", "needed"), [(ESTIMATE, 52.27), (SCHEDULED, 16.30)])
def test_a_refusal_says_what_is_needed_and_what_there_is(message, needed):
    assert parse_refusal(message) == (round(needed * 2**30), round(15.75 * 2**30))


@pytest.mark.parametrize("message", [VECTOR, FAULT])
def test_other_faults_are_about_no_amount_of_memory(message):
    assert parse_refusal(message) == (None, None)


def test_a_refusal_in_one_line_says_why():
    assert first_line(VECTOR).startswith("RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom: Ran out of memory")
    assert "\n" not in first_line(SCHEDULED)
    assert first_line("\n") == "no reason"


def test_a_fault_of_the_compiler_is_not_taken_for_a_lack_of_memory():
    assert Compiled(False, 1.0, None, refusal=first_line(VECTOR)).out_of_memory
    assert not Compiled(False, 1.0, None, refusal=first_line(FAULT)).out_of_memory
    assert not Compiled(True, 1.0, 5).out_of_memory


class Program:
    """A lowered and compiled program in one: what its compiler writes, and what JAX prints of it (None: nothing)."""

    def __init__(self, written=None, printed=None):
        self.written, self.printed = written, printed

    def compile(self, compiler_options):
        if self.written is not None:
            folder = Path(compiler_options["xla_dump_to"])
            (folder / "module_0000.jit_step.after_optimizations.txt").write_text(self.written)
            (folder / "module_0000.jit_step.before_optimizations.txt").write_text("no")
        return self

    def as_text(self):
        if self.printed is None:
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure (hlo_instruction.cc:390)")
        return self.printed


@pytest.mark.parametrize(("words", "text"), [(("a", "b"), "a"), ((None, "b"), "b"), ((), None)])
def test_the_text_is_the_compilers_own_else_what_jax_prints(words, text):
    program = Program(*words)
    assert compile_with_text(program) == (program, text)


def test_the_compilers_own_text_is_what_jax_prints():
    def step(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ x), x)

    compiled, text = compile_with_text(jax.jit(step).lower(jnp.ones((8, 8))))
    names = r"(?m)^ *(?:ROOT )?%([\w.-]+) ="
    assert re.findall(names, text) == re.findall(names, compiled.as_text())
    assert "while" in text


def test_no_program_is_kept_or_found_again(tmp_path):
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
        "jax_enable_compilation_cache": True,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        jax.jit(lambda x: x + 1).lower(1.0).compile()
        kept = len(list(tmp_path.iterdir()))
        with no_cache():
            jax.jit(lambda x: x + 2).lower(1.0).compile()
        assert len(list(tmp_path.iterdir())) == kept > 0
        jax.jit(lambda x: x + 3).lower(1.0).compile()
        assert len(list(tmp_path.iterdir())) > kept
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
