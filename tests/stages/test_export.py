"""Updates that survive an export in a narrower dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxforget
from jaxforget.stages import export


@pytest.mark.parametrize(("dtype", "lost", "kept"), [("bfloat16", 1e-3, 0.25), ("float16", 1e-4, 0.125)])
def test_what_survives_of_an_update(dtype, lost, kept):
    """Near 1 bfloat16 has steps of 1/128 and float16 of 1/1024: a smaller update is lost, a larger one is kept."""
    base = {"w": jnp.ones((64, 64)), "v": jnp.ones(3)}

    def share(size: float, dtype: str) -> float:
        return export.surviving_update(base, jax.tree.map(lambda p: p + size, base), dtype)

    assert share(lost, dtype) == 0.0
    assert share(kept, dtype) == pytest.approx(1.0)
    assert share(0.0, dtype) == 0.0
    assert share(1e-6, "float32") == pytest.approx(1.0)


def test_what_survives_is_what_an_export_holds(tiny_run, tiny_world, tmp_path):
    base, model = jaxforget.load(tiny_world / "base"), jaxforget.load(tiny_run / "unlearned")
    stored = jaxforget.load(jaxforget.export(model, tmp_path / "half", dtype="bfloat16"))
    update, rest = (
        np.concatenate(
            [np.ravel(p - b) for p, b in zip(*map(jax.tree.leaves, (which.params, base.params)), strict=True)]
        )
        for which in (model, stored)
    )
    expected = (update * rest).sum() / (update * update).sum()
    assert export.surviving_update(base.params, model.params, "bfloat16") == pytest.approx(expected, rel=1e-3)
    assert expected != pytest.approx(1.0, abs=1e-3), "an update that is kept whole would prove nothing"
