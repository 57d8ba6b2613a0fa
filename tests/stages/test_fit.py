"""Training of a stage whose selected checkpoint is damaged."""

import dataclasses
from pathlib import Path

import jax
import optax
import pytest

from jaxforget.config import config_from
from jaxforget.stages import fit as module
from jaxforget.stages.fit import Training, fit, load_student
from jaxforget.stages.run import Run
from jaxforget.train.types import Frozen
from tests.tiny_run import settings
from tests.train.tiny import assert_same_bits


def damage(folder: Path) -> None:
    """Flip a byte of the largest file of a checkpoint."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("values", "damaged", "result", "told"),
    [
        ({2: 0.1, 4: 0.2, 6: 0.3}, [], 2, "step 2 has the best familiarity; it"),
        ({2: 0.1, 4: 0.2, 6: 0.3}, [2], 4, "step 4 has the best familiarity of the undamaged checkpoints; it"),
        ({2: 0.1, 4: 0.2, 6: 0.3}, [2, 4], 6, "step 6 has the best familiarity of the undamaged checkpoints; it"),
        ({2: 0.3, 4: 0.2, 6: 0.1}, [6], 6, None),  # the state of the last step is in memory
    ],
)
def test_the_best_undamaged_checkpoint_becomes_the_result(
    values, damaged, result, told, tiny_world, tmp_path, monkeypatch
):
    run = Run(config_from(settings(tiny_world, tmp_path / "run", checkpoints={"keep": 3})))
    said: list[str] = []
    monkeypatch.setattr(Run, "say", lambda self, text, **_: said.append(text))
    kept = {}

    def run_loop(state, *_, checkpoints, **__):
        for step, value in values.items():
            state = dataclasses.replace(state, params=jax.tree.map(lambda leaf: leaf + 1, state.params))
            kept[step] = jax.device_get(state.params)
            checkpoints.save(step, state, {"familiarity": value})
        checkpoints.wait()
        for step in damaged:
            damage(run.checkpoints("forget") / "steps" / str(step))
        return state

    monkeypatch.setattr(module, "run_loop", run_loop)
    training = Training(
        stage="forget",
        fingerprint="inputs",
        student=load_student(run),
        frozen=Frozen(),
        steps=6,
        schedule=lambda step: 1.0,
        optimizer=optax.sgd(1.0),
        make_step=lambda *_: None,
        batches=lambda first: (batch for batch in ()),
        select="familiarity",
    )
    params, step = fit(run, training)
    assert step == result
    assert_same_bits(params, kept[result])
    warnings = [line for line in said if "warning" in line]
    assert len(warnings) == len(damaged) - (6 in damaged)
    assert [line for line in said if "becomes the result" in line] == ([f"  {told} becomes the result"] if told else [])
