"""Help, words, and what ends a command."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jaxforget
from jaxforget.cli import main
from jaxforget.cli.main import make_parser
from jaxforget.config import options, stages_of
from jaxforget.errors import UserError
from tests.cli.saying import fault, status_of
from tests.tiny_run import settings, write_config

ROOT = Path(__file__).parents[2]
# Those that documentation and scripts rely on; there may be more.
FIXED = {
    "demo",
    "run",
    "anchors",
    "prepare",
    "reinforce",
    "forget",
    "eval",
    "export",
    "report",
    "generate",
    "plan",
    "profile",
}
COMMANDS = tuple(make_parser()[1])
EVERY_OPTION = ("run", "plan", "profile")


def test_help_does_not_load_jax():
    code = (
        "import sys\n"
        "from jaxforget.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit as leaving: assert leaving.code == 0\n"
        "heavy = {'jax', 'numpy', 'flax', 'transformers', 'tensorflow_datasets', 'torch'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stderr == "set()\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert status_of(command, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: jaxforget {command}")
    if "key=value" in said:
        assert max(map(len, said.splitlines())) <= 100 or command == "anchors review"
        stage = {"eval": {"eval", "suites"}}.get(command, {command})
        for name, field in options():
            listed = command in EVERY_OPTION or bool(stage & set(stages_of(name, field)))
            if command != "anchors review":
                found = re.search(rf"^  {re.escape(name)} +{re.escape(field.metadata['help'][:20])}", said, re.M)
                assert bool(found) == listed, name


def test_help_lists_the_commands_and_defaults(capsys):
    assert status_of("--help") == 0
    said = capsys.readouterr().out
    assert set(COMMANDS) >= FIXED
    assert all(re.search(rf"^ +{command}\s+\w", said, re.M) for command in COMMANDS)
    status_of("export", "--help")
    assert "forget.batch" not in capsys.readouterr().out
    status_of("run", "--help")
    said = capsys.readouterr().out
    assert re.search(r"^  forget\.learning_rate +.* \[1e-06\]$", said, re.M)
    assert re.search(r"^  export\.dtype +.* \(float32 \| bfloat16\n +\| float16\) \[float32\]$", said, re.M)
    assert said.index("essential options") < said.index("  forget.learning_rate") < said.index("model: The models.")
    assert "  corpus.path" in said.partition("\n\ngeneral\n")[0]


def test_version_and_help_as_a_command(capsys):
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"jaxforget {jaxforget.__version__}\n"
    for command in ("run", "anchors review"):
        assert status_of("help", *command.split()) == 0
        told = capsys.readouterr().out
        assert status_of(*command.split(), "--help") == 0
        assert capsys.readouterr().out == told
    assert status_of("help") == 0
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["run", "--help"], ["--version"], ["anchors", "--dry-run", "CONFIG"]])
def test_output_that_cannot_be_written_is_an_error(words, tiny_world, tmp_path):
    asked = {"path": None, "extractor": "endpoint"}
    endpoint = {"model": "m", "price_in": 1.0, "price_out": 1.0}
    values = settings(tiny_world, tmp_path / "run", anchors=asked, endpoint=endpoint)
    path = write_config(tmp_path / "c.yaml", values)
    words = [str(path) if word == "CONFIG" else word for word in words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jaxforget", *words], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("jaxforget: standard output: No space left on device; ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: COMMAND; see jaxforget --help"),
        (["frobnicate"], "unknown command 'frobnicate'; the commands are demo, run, "),
        (["forgt", "CONFIG"], "unknown command 'forgt'; did you mean forget?"),
        (["help", "generte"], "unknown command 'generte'; did you mean generate?"),
        (["run", "forget.batch=3"], "forget.batch=3: CONFIG comes before the options"),
        (
            ["run", "CONFIG", "forget.batch=99999999999999"],
            "forget.batch is 99999999999999; it must be at most 1,048,576",
        ),
        (["demo", "--out", "CONFIG"], "is not a folder; name a folder"),
        (["run"], "the following arguments are required: CONFIG"),
        (["run", "CONFIG", "--forget.batch=3"], "unknown argument '--forget.batch=3'; see jaxforget run --help"),
        (["run", "CONFIG", "-x"], "unknown argument '-x'"),
        (["generate", "m"], "no prompt is given; write --prompt TEXT"),
        (["generate", "m", "--prompt", "x", "--tokens", "many"], "argument --tokens: invalid int value: 'many'"),
        (["generate", "m", "--prompt", "x", "--dtype", "int4"], "argument --dtype: invalid choice: 'int4'"),
        (["generate", "m", "--prompt", "x", "--seed", "-1"], "--seed -1: give a whole number from 0"),
        (["demo", "--seed", "-1"], "--seed -1: give a whole number from 0"),
        (["demo", "--seed", "99999999999"], "--seed 99999999999: give"),
        (["demo", "extra"], "unknown argument 'extra'"),
        (["run", "CONFIG", "forget.bach=3"], "forget.bach=3: unknown key 'forget.bach'; did you mean forget.batch?"),
        (["run", "CONFIG", "forget.batch"], "'forget.batch': options are written key=value"),
        (["run", "CONFIG", "forget.batch=-1"], "forget.batch is -1; it must be above 0"),
        (["run", "CONFIG", "out=null"], "out is not set; it names the folder"),
        (["run", "CONFIG", "seed=-1"], "seed is -1; it must be at least 0"),
        (["run", "nothing.yaml"], "nothing.yaml: no such file; give a YAML file or a run's folder"),
        (["run", "caf\udce9.yaml"], "the command line is not UTF-8"),
    ],
)
def test_words(words, says, capsys, config):
    assert says in fault(capsys, *(str(config) if word == "CONFIG" else word for word in words))


def test_missing_places_are_told_without_loading_jax(config):
    code = (
        "import sys\n"
        "from jaxforget.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "print({'jax', 'numpy'} & set(sys.modules), status)"
    )
    for word in ("model.folder=/nowhere", "corpus.path=/nowhere", "evals.probes=/nowhere.json"):
        done = subprocess.run(
            [sys.executable, "-c", code, "run", config, word], capture_output=True, text=True, cwd=ROOT
        )
        assert done.stdout == "set() 2\n"
        assert done.stderr.startswith(f"jaxforget: {word.replace('=', ': ')}: no such ")


def test_debug_may_stand_anywhere_and_shows_the_traceback(config):
    for words in (
        ["--debug", "run", config, "seed=-1"],
        ["run", "--debug", config, "seed=-1"],
        ["run", config, "--debug", "seed=-1"],
        ["run", config, "seed=-1", "--debug"],
    ):
        with pytest.raises(UserError, match="seed is -1"):
            main([str(word) for word in words])


def test_a_config_that_is_none(capsys, tmp_path):
    binary = tmp_path / "model.safetensors"
    binary.write_bytes(bytes(range(256)))
    assert "not UTF-8 at byte 128" in fault(capsys, "run", binary)
    assert "holds no config.yaml, so it is no run's folder" in fault(capsys, "run", tmp_path)


def test_a_full_disk_is_one_line_that_names_the_file(capsys, config, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    told = fault(capsys, "run", config)
    assert (
        told
        == f"{tmp_path}/run/manifest.json: No space left on device; free space there, and run the same command again"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.EACCES, "Permission denied", "/x/y"),
            "/x/y: Permission denied; allow it, or name another place",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nmore"),
            "out of memory: raise forget.accumulate",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "OUT: No space left on device; free space there, and run"),
        (RuntimeError("write failed: No space left on device [x]"), "OUT: No space left on device; free space"),
        (ValueError('in "/a/b/": No space left on device'), "/a/b/: No space left on device; free space"),
        (MemoryError(), "out of memory"),
        (UserError("two\nlines"), "two lines"),
    ],
)
def test_faults_of_the_machine_are_one_line(error, says, capsys, config, monkeypatch):
    monkeypatch.setattr("jaxforget.pipeline.run_chain", lambda *_, **__: (_ for _ in ()).throw(error))
    assert fault(capsys, "run", config).startswith(says.replace("OUT", str(config.parent / "run")))


def test_a_platform_that_is_not_there_and_memory_that_a_device_lacks(capsys, config, monkeypatch):
    for error, says in (
        (
            RuntimeError("Unable to initialize backend 'tpu': x (set JAX_PLATFORMS='')"),
            "JAX_PLATFORMS: this machine has no tpu",
        ),
        (
            RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 15 bytes."),
            "out of memory: ",
        ),
    ):
        monkeypatch.setattr("jaxforget.pipeline.run_chain", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert fault(capsys, "run", config).startswith(says)


def test_a_platform_whose_plugin_is_not_installed(tmp_path):
    command = [sys.executable, "-m", "jaxforget", "profile", "configs/toy.yaml", f"out={tmp_path}", "model.folder=x"]
    done = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "rocm"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "jaxforget: JAX_PLATFORMS: this machine has no rocm; unset it, or set it to cpu (--debug shows why)\n"
    )


def test_config_alone_is_what_a_command_asks_for(capsys):
    assert "the following arguments are required: CONFIG; see" in fault(capsys, "plan", "--slice", "v5e-8")


def test_our_own_faults_keep_their_traceback(config, monkeypatch):
    monkeypatch.setattr("jaxforget.pipeline.run_chain", lambda *_, **__: [][0])
    with pytest.raises(IndexError):
        main(["run", str(config)])


def test_interruptions(capsys, config, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxforget.pipeline.run_chain", interrupt)
    assert status_of("run", config) == 130
    assert capsys.readouterr().err == (
        "jaxforget: interrupted; run the same command to go on from the last checkpoint\n"
    )
    monkeypatch.setattr("jaxforget.pipeline.run_chain", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert status_of("run", config) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_in_the_place_of_an_interruption_is_one_all_the_same(capsys, config, monkeypatch):
    """A library that is being imported may make an ImportError of what a handler raised."""

    def importing(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise ImportError("Encountered an error while initializing the extension.") from None

    monkeypatch.setattr("jaxforget.pipeline.run_chain", importing)
    assert status_of("run", config) == 143
    assert capsys.readouterr().err.startswith("jaxforget: stopped by SIGTERM")


def test_a_last_line_that_nobody_reads_does_not_change_the_status():
    code = """
import sys
import jaxforget.pipeline
from jaxforget.cli import chain, main
from jaxforget.errors import Preempted
def stopped(*_, **__):
    raise Preempted("forget", 3)
jaxforget.pipeline.run_chain = stopped
chain.check_places = lambda *_: None
sys.exit(main())
"""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", code, "run", ROOT / "configs" / "toy.yaml"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=writer, text=True, timeout=120)
    os.close(writer)
    assert done.returncode == 143


@pytest.mark.parametrize(
    ("words", "alone"),
    [
        (["report"], True),
        (["anchors", "--dry-run", "anchors.path=null", "anchors.extractor=endpoint"], True),
        (["anchors", "anchors.path=null", "anchors.extractor=endpoint"], False),  # one of them asks for all
        (["anchors", "anchors.path=null", "anchors.extractor=statistics"], False),
        (["prepare"], False),  # two of them would write one folder
        (["forget"], False),
    ],
    ids=str,
)
def test_what_joins_no_other_host(monkeypatch, tmp_path, words, alone):
    class Asked(Exception):
        pass

    def start(*, alone: bool) -> None:
        raise Asked(alone)

    module = "report" if words[0] == "report" else "chain"
    monkeypatch.setattr(f"jaxforget.cli.{module}.start_jax", start)
    monkeypatch.setattr(f"jaxforget.cli.{module}.check_places", lambda *_: None)
    with pytest.raises(Asked) as asked:
        main([words[0], str(ROOT / "configs" / "toy.yaml"), f"out={tmp_path}", *words[1:]])
    assert asked.value.args == (alone,)
