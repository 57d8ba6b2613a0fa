"""Fingerprints of all stages and suites against the schema: each declared option counts as its declaration says."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from jaxforget.config import config_from, options, stages_of, value_of
from jaxforget.config.option import LAYOUT, PLACE, RESULT
from jaxforget.evals.catalogue import choose
from jaxforget.manifest import fingerprint
from jaxforget.pipeline import STAGES, order
from jaxforget.stages.hashes import hash_followed
from jaxforget.stages.measure import Models, prepare
from jaxforget.stages.run import Run
from tests.tiny_run import HEROES, PLACES, sentences, settings

ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "model": "judge"}
GIVEN = {"model": {"reinforced": "WORLD/reinforced"}}
FOUND = {"anchors": {"path": None}}
ASKED = {"anchors": {"path": None, "extractor": "endpoint"}}
LOCAL = {"anchors": {"path": None, "extractor": "local", "model": "WORLD/chat"}}
OFFLINE = {"evals": {"completion_prompts": None, "grader": "offline"}}

# The settings under which a stage uses an option, where the settings of `everything` do not use it.
USED_WITH = {
    ("anchors", "corpus.path"): FOUND | GIVEN,
    ("anchors", "retain.path"): FOUND | GIVEN,
    ("anchors", "model.folder"): FOUND | GIVEN,
    ("anchors", "model.reinforced"): FOUND | GIVEN,
    ("anchors", "anchors.model"): LOCAL,
    ("reinforce", "model.reinforced"): GIVEN,
    ("forget", "model.reinforced"): GIVEN,
    ("suites", "corpus.path"): OFFLINE,
    ("suites", "evals.completion_count"): OFFLINE,
    ("suites", "evals.prompt_maker"): OFFLINE,
}
# Other values of options whose type does not tell one.
OTHER = {"evals.benchmarks": "boolq", "evals.tasks": "arc_easy", "endpoint.base_url": "http://127.0.0.1:8/v1"}


@pytest.fixture(scope="module")
def everything(tiny_world, tmp_path_factory):
    """The folder of a world that has a file, a folder or a model for every option that names one."""
    world = shutil.copytree(tiny_world, tmp_path_factory.mktemp("everything") / "world")
    for name in ("reinforced", "chat", "other"):
        shutil.copytree(world / "control", world / name)
    texts = {
        "unrelated/a.txt": "rain", "nonmembers/a.txt": sentences(HEROES, PLACES, 9, 7), "tfds/piqa/1/data": "x",
        "tfds/super_glue/boolq/1/data": "x",
        "tasks/a.yaml": "task: a", "muse/a.json": "[]", "tofu/forget.jsonl": "{}", "alternates.txt": "No idea.\n",
        "choices.jsonl": "{}", "completion_prompts.jsonl": "{}", "attacks.json": "{}", "earlier/text.txt": "Once.",
    }  # fmt: skip
    for name, text in texts.items():
        (world / name).parent.mkdir(parents=True, exist_ok=True)
        (world / name).write_text(text, encoding="utf-8")
    shutil.copyfile(world / "probes.json", world / "earlier" / "probes.json")
    shutil.copyfile(world / "anchors.json", world / "found.json")
    return world


def run_of(world: Path, **sections) -> Run:
    """Return a run in `world` that uses every option, except those of `USED_WITH`."""
    text, probes = (str(world / "earlier" / name) for name in ("text.txt", "probes.json"))
    earlier = {"corpus": {"path": text}, "evals": {"probes": probes}}
    (world / "earlier" / "config.yaml").write_text(yaml.safe_dump(earlier))
    places = {
        "probes": "probes.json", "prompts": "prompts.json", "heldout": "heldout", "choices": "choices.jsonl",
        "tfds": "tfds", "tasks_folder": "tasks", "muse": "muse", "tofu": "tofu", "nonmembers": "nonmembers",
        "completion_prompts": "completion_prompts.jsonl", "attacks": "attacks.json",
        "compare": {"other": "WORLD/other"}, "forgotten": {"first": "WORLD/earlier"},
    }  # fmt: skip
    values = {
        "model": {"control": "WORLD/control"},
        "corpus": {"alternates": "WORLD/alternates.txt"},
        "retain": {"path": "WORLD/retain", "weight": 1.0, "rows": 8},
        "ilu": {"path": "WORLD/unrelated", "weight": 0.1, "rows": 8},
        "undo": {"alpha": 0.1, "max_steps": 2, "batch": 8},
        "endpoint": ENDPOINT,
        "evals": {"tasks": "hellaswag", "grader": "endpoint", "benchmarks": "boolq,piqa"}
        | {name: place if isinstance(place, dict) else f"WORLD/{place}" for name, place in places.items()},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    values = json.loads(json.dumps(values).replace("WORLD", str(world)))
    run = Run(config_from(settings(world, world / "run", **values)))
    run.folder.mkdir(exist_ok=True)
    shutil.copyfile(world / "found.json", run.anchors)  # the suites ask for words of the dictionary
    return run


def stage_inputs(run: Run) -> dict[str, dict[str, str]]:
    """Return the inputs of every stage; those of earlier stages count by their expected fingerprints."""
    expected: dict[str, str] = {}
    found = {}
    for stage in order(run, [stage.name for stage in STAGES]):
        found[stage.name] = stage.inputs(run, expected)
        expected[stage.name] = fingerprint(found[stage.name])
    # The curve is a result of the stage forget with inputs of its own.
    found["forget"] |= {f"{name} of the curve": value for name, value in hash_followed(run).items()}
    return found


def suite_inputs(run: Run, suites: str = "all") -> dict[str, dict[str, str]]:
    """Return the inputs of the rows of suites, for the result and for another model, as "SUITE of MODEL" -> inputs."""
    models = Models(run)
    return {
        f"{entry.name} of {name}": prepare(run, models, entry, entry.load(), name).inputs
        for entry in choose(suites)
        for name in ("unlearned", "other")
    }


def with_value(run: Run, changes: dict) -> Run:
    """Return the run with other values of options, as "evals.batch" -> value."""
    config = run.config
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        one = dataclasses.replace(getattr(config, section) if section else config, **{key: value})
        config = dataclasses.replace(config, **{section: one}) if section else one
    changed = Run(config)
    vars(changed)["manifest"] = run.manifest  # it knows the hashes of the files, which are the same
    return changed


def other_value(run: Run, name: str, field: dataclasses.Field):
    """Return a value of an option that differs from the run's."""
    now, choices = value_of(run.config, name), field.metadata["choices"]
    if name in OTHER:
        return OTHER[name]
    if choices:
        return next(choice for choice in choices if choice != now)
    if isinstance(now, bool):
        return not now
    if isinstance(now, dict):
        return {**now, "more": 1.0}
    if isinstance(now, str) or (now is None and "str" in str(field.type)):
        return f"{now} changed"
    return 1 if now is None else now * 0.5 if isinstance(now, float) and now else now + 1


def kinds(affects: str) -> list[tuple[str, dataclasses.Field]]:
    return [(name, field) for name, field in options() if field.metadata["affects"] == affects]


def altered(path: Path, kind: str = "") -> Path:
    """Return the file that stands for the content of a place: weights of a model, or the first of a folder."""
    if kind == "model":
        return path / "model.safetensors"
    return path if path.is_file() else next(file for file in sorted(path.rglob("*")) if file.is_file())


def changes_of(world: Path, run: Run, file: Path, inputs) -> set[str]:
    """Return the names whose inputs differ if one bit, or one blank, of a file differs."""
    content = file.read_bytes()
    before = inputs(run)
    try:
        binary = file.suffix == ".safetensors"
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if binary else content + b" ")
        after = inputs(Run(run.config))
    finally:
        file.write_bytes(content)
    return {name for name in before if before[name] != after[name]}


def named(run: Run, name: str) -> Path:
    """Return the place that an option names; the first one of several."""
    value = value_of(run.config, name)
    return Path(next(iter(value.values())) if isinstance(value, dict) else value)


@pytest.mark.parametrize("inputs", [stage_inputs, suite_inputs])
@pytest.mark.parametrize("sections", [{}, FOUND, ASKED, OFFLINE], ids=["all", "found", "asked", "offline"])
def test_no_layout_option_changes_what_a_result_depends_on(inputs, sections, everything):
    run = run_of(everything, **sections)
    before = inputs(run)
    after = inputs(with_value(run, {name: other_value(run, name, field) for name, field in kinds(LAYOUT)}))
    for name, found in before.items():
        assert after[name] == found, name


@pytest.mark.parametrize("inputs", [stage_inputs, suite_inputs])
@pytest.mark.parametrize("sections", [{}, FOUND, OFFLINE], ids=["all", "found", "offline"])
def test_no_place_changes_what_a_result_depends_on(inputs, sections, everything, tmp_path):
    before = inputs(run_of(everything, **sections))
    moved = inputs(run_of(shutil.copytree(everything, tmp_path / "moved"), **sections))
    for name, found in before.items():
        assert moved[name] == found, name


PLACES_OF_STAGES = [
    (stage, name, field.metadata["path"])
    for name, field in kinds(PLACE)
    if field.metadata["path"] != "run"
    for stage in stages_of(name, field)
]


@pytest.mark.parametrize(("stage", "option", "kind"), PLACES_OF_STAGES)
def test_the_content_of_every_input_reaches_the_fingerprints_that_depend_on_it(stage, option, kind, everything):
    run = run_of(everything, **USED_WITH.get((stage, option), {}))
    place = named(run, option)
    if option == "evals.forgotten":
        files = [place / "text.txt", place / "probes.json"]
    elif option == "evals.tfds":
        files = [place / "piqa" / "1" / "data"]
    elif (stage, option) == ("prepare", "model.folder"):
        files = [place / "tokenizer.json"]
    else:
        files = [altered(place, kind)]
    for file in files:
        found = changes_of(everything, run, file, suite_inputs if stage == "suites" else stage_inputs)
        assert found if stage == "suites" else stage in found, f"{stage} keeps its result when {file} changes"


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        *(("anchors" if stage == "text" else stage, "model.folder") for stage in ("anchors", "prepare", "reinforce")),
        *((stage, "model.folder") for stage in ("forget", "undo", "eval", "export")),
        ("anchors", "anchors.model"),
        *((stage, option) for stage in ("eval", "suites") for option in ("model.control", "evals.compare")),
    ],
)
def test_the_tokenizer_of_every_model_that_reads_text_counts(stage, option, everything):
    run = run_of(everything, **USED_WITH.get((stage, option), {}))
    file = named(run, option) / "tokenizer_config.json"
    found = changes_of(everything, run, file, suite_inputs if stage == "suites" else stage_inputs)
    assert found if stage == "suites" else stage in found


@pytest.mark.parametrize("option", [name for name, field in kinds(RESULT) if "suites" in stages_of(name, field)])
def test_every_option_of_the_suites_makes_rows_stale(option, everything):
    run = run_of(everything, **USED_WITH.get(("suites", option), {}))
    field = dict(options())[option]
    before, after = suite_inputs(run), suite_inputs(with_value(run, {option: other_value(run, option, field)}))
    assert before.keys() == after.keys()
    assert before != after


def test_the_stage_eval_depends_on_all_that_its_suites_depend_on(everything):
    """The stage measures the suites probability and forgotten; the table must not keep their older rows."""
    run = run_of(everything)

    def rows(run):
        return suite_inputs(run, "probability,forgotten")

    before, stage = rows(run), stage_inputs(run)["eval"]
    depends = []
    for name, field in kinds(RESULT):
        if name in ("method", "objective"):
            continue
        changed = with_value(run, {name: other_value(run, name, field)})
        if rows(changed) != before:
            depends.append(name)
            assert stage_inputs(changed)["eval"] != stage, name
    assert {"evals.passages", "evals.heldout_blocks", "model.dtype", "blocks.length"} <= set(depends)


@pytest.mark.parametrize("stage", ["anchors", "suites"])
@pytest.mark.parametrize(
    ("variable", "option"), [("OPENAI_MODEL", "model"), ("OPENAI_BASE_URL", "base_url"), ("OPENAI_API_KEY", None)]
)
def test_an_endpoint_counts_as_it_is_asked_and_its_key_does_not(stage, variable, option, everything, monkeypatch):
    inputs = suite_inputs if stage == "suites" else stage_inputs
    sections = {"endpoint": {option: None}} if option else {}
    found = []
    for value in ("http://127.0.0.1:9/v1", "http://127.0.0.1:8/v1"):
        monkeypatch.setenv(variable, value)
        found.append(inputs(run_of(everything, **ASKED, **sections)))
    changed = {name for name in found[0] if found[0][name] != found[1][name]}
    if option is None:
        assert not changed
    else:
        assert all(name.startswith("completion of") for name in changed) if stage == "suites" else stage in changed
        assert changed


def test_an_adapter_counts_with_the_base_that_it_names(everything, tmp_path):
    """Its own files are the same, but another base computes other rows."""
    base = tmp_path / "adapted"
    shutil.copytree(everything / "base", base)
    folder = tmp_path / "adapter"
    folder.mkdir()
    named_base = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(named_base | {"target_modules": ["q_proj"]}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    run = run_of(everything, evals={"compare": {"other": str(folder)}})
    weights = base / "model.safetensors"
    assert "eval" in changes_of(everything, run, weights, stage_inputs)
    assert "probability of other" in changes_of(everything, run, weights, suite_inputs)
