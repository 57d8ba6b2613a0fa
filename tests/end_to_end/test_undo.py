"""The stage undo: noise on the unlearned weights, and distillation of the unlearned model on the text to keep."""

import json
import os
import signal

import jax
import numpy as np
import pytest

import jaxforget
from jaxforget.compare.protocol import compare
from jaxforget.config import config_from
from jaxforget.dry_run import as_text, estimate_run
from jaxforget.errors import Preempted, UserError
from jaxforget.pipeline import needed_stages, run_chain
from jaxforget.report.sections import outdated
from jaxforget.stages.fit import batches_from
from jaxforget.stages.run import Run
from jaxforget.stages.undo import perturbed_student
from jaxforget.train.metrics import MetricsLog
from tests.tiny_run import settings

UNDO = {"alpha": 0.3, "beta": 0.1, "max_steps": 4, "batch": 8, "learning_rate": 1e-3}
TRAINED = ("prepare", "forget", "undo")


def configured(world, folder, **sections):
    """Return the configuration of a run of npo with undo."""
    sections = {
        "method": "npo",
        "anchors": {"path": None},
        "forget": {"max_steps": 2},
        "retain": {"path": str(world / "retain")},
        "undo": UNDO,
        **sections,
    }
    return config_from(settings(world, folder, **sections))


def kernel(folder):
    return np.asarray(jaxforget.load(folder).params["layers"]["up"]["kernel"])


def losses(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["stage"] == "undo"]


@pytest.fixture(scope="module")
def undone(tiny_world, tmp_path_factory):
    """A finished run."""
    return run_chain(configured(tiny_world, tmp_path_factory.mktemp("undo") / "run"))


def test_the_chain_measures_and_exports_the_model_after_undo(undone):
    assert needed_stages(undone) == (*TRAINED, "eval", "export", "report")
    assert undone.unlearned.name == "undone"
    np.testing.assert_array_equal(kernel(undone.export), kernel(undone.unlearned))
    assert np.abs(kernel(undone.unlearned) - kernel(undone.forgotten)).max() > 1e-3
    assert undone.manifest.stage("eval")["inputs"].keys() >= {"forget", "undo"}
    assert "| noise (UNDO, arXiv 2506.06278) | alpha 0.3, beta 0.1" in (undone.export / "README.md").read_text()
    assert (undone.folder / "report.html").is_file()


def test_the_first_loss_is_the_divergence_of_the_noisy_model_on_the_kept_text(undone):
    before, noisy = jaxforget.load(undone.forgotten), perturbed_student(undone)
    noisy_params = jax.tree.map(np.asarray, noisy.params)
    batch = next(batches_from(undone, 0, batch=8, blocks=undone.retain_blocks))
    p, q = (
        jax.nn.log_softmax(model.module.apply({"params": params}, batch["tokens"]), axis=-1)
        for model, params in ((before, before.params), (noisy, noisy_params))
    )
    each = np.sum(np.exp(p) * (p - q), axis=-1)
    expected = np.sum(each * batch["weights"]) / np.sum(batch["weights"])
    found = losses(undone)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)
    assert found[-1] < found[0]


def test_switching_undo_on_trains_the_forget_stage_no_second_time(tiny_world, tmp_path, capfd):
    retain = {"path": str(tiny_world / "retain"), "weight": 1.0, "rows": 8}  # so that its blocks are cut in any case
    off, on = (
        configured(tiny_world, tmp_path / "run", retain=retain, undo={**UNDO, "alpha": alpha}) for alpha in (0.0, 0.3)
    )
    run_chain(off)
    with pytest.raises(UserError, match=r"undo.alpha is 0, so there is no stage undo to run"):
        run_chain(off, ("undo",))
    capfd.readouterr()
    run = run_chain(on, TRAINED)
    said = capfd.readouterr().err
    assert "forget: up to date" in said
    assert "undo: up to date" not in said
    assert outdated(run.manifest._values)  # the evidence is of the model before undo
    assert outdated(run_chain(on, ("eval",)).manifest._values) is False


def test_evidence_of_the_model_before_undo_is_outdated():
    stages = {
        "forget": {"fingerprint": "a", "finished": "1"},
        "undo": {"fingerprint": "b", "finished": "3"},
        "eval": {"inputs": {"forget": "a"}, "finished": "2"},
    }
    assert outdated({"stages": stages})
    stages["eval"] = {"inputs": {"forget": "a", "undo": "b"}, "finished": "4"}
    assert not outdated({"stages": stages})
    stages["undo"] = {"fingerprint": "c", "finished": "5"}
    assert outdated({"stages": stages})
    stages["eval"] = {"inputs": {"forget": "a"}, "finished": "6"}  # undo was switched off
    assert not outdated({"stages": stages})


def test_a_stopped_stage_resumes_to_the_same_weights(tiny_world, tmp_path, undone, monkeypatch, capfd):
    config = configured(tiny_world, tmp_path / "run", mesh={"fsdp": 4, "data": 2})
    write = MetricsLog.write

    def stopping(self, step, *values, **more):
        write(self, step, *values, **more)
        if self._stage == "undo" and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", stopping)
        with pytest.raises(Preempted, match="undo"):
            run_chain(config, TRAINED)
    resumed = run_chain(config, TRAINED)
    assert "continuing from the checkpoint of step 3" in capfd.readouterr().err
    # Another mesh, so equal up to the order of sums.
    np.testing.assert_allclose(kernel(resumed.unlearned), kernel(undone.unlearned), atol=2e-5)


def test_an_adapter_is_merged_and_every_weight_gets_noise(tiny_world, tmp_path):
    sections = {"forget": {"max_steps": 2, "weights": "lora"}, "lora": {"rank": 4}, "model": {"base": "int8"}}
    run = run_chain(configured(tiny_world, tmp_path / "run", **sections))
    before, after = jaxforget.load(run.base), jaxforget.load(run.export)
    np.testing.assert_allclose(kernel(run.export), kernel(run.unlearned))
    assert np.abs(np.asarray(after.params["embed"]) - 0.7 * np.asarray(before.params["embed"])).max() > 1e-3


def test_undo_needs_a_text_to_keep(tiny_world, tmp_path):
    with pytest.raises(UserError, match=r"undo\.alpha is set but retain\.path names no text to distil on"):
        configured(tiny_world, tmp_path / "run", retain={"path": None})


def test_a_dry_run_knows_the_stage(tiny_world, tmp_path):
    config = configured(tiny_world, tmp_path / "run")
    found = {one.planned.name: one for one in estimate_run(config).stages}
    assert found["undo"].steps == 4
    assert found["undo"].memory["frozen models"] > 0
    assert "undo" in as_text(estimate_run(config), config)
    off = configured(tiny_world, tmp_path / "run", undo={"alpha": 0.0})
    assert "undo" not in {one.planned.name for one in estimate_run(off).stages}


def test_a_comparison_applies_undo(tiny_world, tmp_path):
    config = configured(
        tiny_world, tmp_path / "out", retain={"path": str(tiny_world / "retain"), "weight": 1.0, "rows": 8}
    )
    compare(config, ["npo"], [0], 1)
    runs = [path.parent for path in (tmp_path / "out" / "compare").glob("seed_0/*/*/undone")]
    assert len(runs) == 1
    assert all(Run(config_from(settings(tiny_world, run))).folder.is_dir() for run in runs)
