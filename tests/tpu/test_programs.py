"""The abstract batch of a plan beside the batches that a run of the same configuration trains on."""

import json

import pytest

from jaxforget.config import config_from
from jaxforget.corpus.batches import make_batches
from jaxforget.models.folders import read_config
from jaxforget.pipeline import run_chain
from jaxforget.sharding import make_mesh
from jaxforget.tpu.plan import plan
from jaxforget.tpu.programs import batch_widths, training_program
from tests.tiny_run import settings
from tests.tpu.tiny import model_folder, tiny_config

QUESTIONS = [{"question": f"Where did Zorvath go on night {n}?", "answer": "To London."} for n in range(8)]
REPLIES = [{**question, "alternate": "Nowhere."} for question in QUESTIONS]


def written(path, records) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(
    ("method", "records", "columns"),
    [
        ("npo", None, set()),
        ("npo", QUESTIONS, {"answer"}),
        ("dpo", REPLIES, {"answer", "alternate", "alternate_weights", "alternate_answer"}),
    ],
)
def test_the_batch_of_a_plan_is_the_batch_of_the_run(method, records, columns, tiny_world, tmp_path):
    corpus = {} if records is None else {"path": written(tmp_path / "forget.jsonl", records)}
    retain = {"path": str(tiny_world / "retain"), "weight": 1.0, "rows": 8}
    given = {"corpus": corpus, "retain": retain, "anchors": {"path": None}, "blocks": {"length": 64}}
    config = config_from(settings(tiny_world, tmp_path / "run", method=method, **given))
    assert batch_widths(config).asks == (records is not None), "known before anything is prepared"
    run = run_chain(config, ("prepare",))
    mesh, (llama, _) = make_mesh(), read_config(run.base)
    _, (_, _, planned) = training_program(config, llama, mesh, batch_widths(config), "forget")
    iterator = make_batches(run.blocks, "train", batch_size=8, retain_folder=run.retain_blocks, retain_rows=8)
    batch = next(iterator)
    iterator.close()
    assert {name: (array.shape, array.dtype) for name, array in planned.items()} == {
        name: (array.shape, array.dtype) for name, array in batch.items()
    }
    assert columns == set(batch) & {"answer", "alternate", "alternate_weights", "alternate_answer"}


def test_a_step_with_alternative_answers_compiles_for_a_slice(tmp_path):
    """Two rows a question, under the student and under base; without a retain term nothing else differs from npo."""
    words = (f"corpus.path={written(tmp_path / 'forget.jsonl', REPLIES)}", "forget.batch=16")
    model = model_folder(tmp_path / "model")
    (npo,) = plan(tiny_config(model, "method=npo", *words), ["v5e-8"], steps=["forget"])
    (dpo,) = plan(tiny_config(model, "method=dpo", *words), ["v5e-8"], steps=["forget"])
    assert npo["fits"]
    assert dpo["fits"]
    assert dpo["flops_per_token"] == 2 * npo["flops_per_token"]
    assert 1.5 < dpo["hardware_flops_per_token"] / npo["hardware_flops_per_token"] < 2.5
