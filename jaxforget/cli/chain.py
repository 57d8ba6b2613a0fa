"""`jaxforget run` and every single stage of it."""

import argparse

from jaxforget.cli.faults import quiet_threads, tell
from jaxforget.cli.parser import add_config, option_table, read_config
from jaxforget.errors import UserError
from jaxforget.start import start_jax

HELP = {
    "run": "the whole chain on your model and text",
    "anchors": "read the dictionary of anchors, or find one in the text",
    "prepare": "tokenise, cut and translate the text into blocks",
    "reinforce": "train base further on the text",
    "forget": "train the student towards generic labels",
    "eval": "measure every model beside the others",
    "export": "write the unlearned model for others to load",
    "report": "write report.html",
}
EPILOG = """\
CONFIG is a YAML file (see configs/) or a run's folder, whose saved configuration it then is. Options are written
key=value, for example forget.learning_rate=1e-6; of two for one key the later holds. Running the same command again
goes on where it stopped.

{which} (defaults in brackets):
{options}
"""


WHICH = {True: "options that matter here; `jaxforget run --help` lists all", False: "options"}
# What a stage's own help lists; it takes every option, so that one configuration serves the whole chain.
SECTIONS = {
    "anchors": ("", "model", "corpus", "retain", "anchors", "endpoint"),
    "anchors review": ("", "corpus"),
    "prepare": ("", "model", "corpus", "retain", "anchors", "blocks"),
    "reinforce": ("", "model", "reinforce", "checkpoints", "mesh"),
    "forget": ("", "model", "retain", "targets", "forget", "evals", "checkpoints", "mesh"),
    "eval": ("", "model", "evals", "endpoint", "mesh"),
    "export": ("", "model", "export"),
    "report": ("",),
}
# Those of jaxforget.stages.suites.catalogue and their groups, which a test compares: help must not wait for JAX.
SUITES = (
    "probability",
    "multiple_choice",
    "benchmarks",
    "harness",
    "muse",
    "tofu",
    "memorization",
    "membership",
    "prompting",
    "weights",
    "relearning",
    "completion",
    "audit",
    "robustness",
)
SUITES_EPILOG = """
suite=NAME[,NAME...] measures suites of evaluations: all, or {names}.
Each model's rows are kept as they come; running the same command again goes on where it stopped.
"""


def add(add_command) -> None:
    """Adds a command for the whole chain, and one a stage."""
    for name, summary in HELP.items():
        parser = add_command(name, summary, run)
        parser.epilog = EPILOG.format(which=WHICH[name in SECTIONS], options=option_table(SECTIONS.get(name)))
        if name == "eval":
            parser.epilog = SUITES_EPILOG.format(names=", ".join(SUITES)) + "\n" + parser.epilog
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="with suite=: measure nothing, show what an endpoint would be asked",
            )
        if name == "anchors":
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="with anchors.extractor=endpoint: show what it would be asked, ask nothing",
            )
        add_config(parser)


def run(given: argparse.Namespace) -> int:
    """Runs the stages that the command names."""
    suites = [word for word in given.overrides if given.name == "eval" and word.startswith("suite=")]
    if given.name == "eval" and given.dry_run and not suites:
        raise UserError("--dry-run shows what suites would ask an endpoint; name them, as suite=completion")
    config = read_config(given.config, [word for word in given.overrides if word not in suites])
    start_jax(alone=given.name == "report" or (given.name == "anchors" and given.dry_run))
    from jaxforget.pipeline import STAGES, preview_anchors, run_chain, run_suites
    from jaxforget.train.loop import Preempted

    names = tuple(stage.name for stage in STAGES) if given.name == "run" else (given.name,)
    given.out = config.out or ""
    quiet_threads(given.debug)
    try:
        if given.name == "anchors" and given.dry_run:
            print(preview_anchors(config))
        elif suites:
            run_suites(config, suites[-1].removeprefix("suite="), dry_run=given.dry_run)
        else:
            run_chain(config, names)
    except Preempted as stopped:
        tell(str(stopped))
        return 128 + stopped.signal
    return 0
