"""The commands `run`, and one for each stage of the chain."""

import argparse

from jaxforget.cli.parser import add_config, number, option_table, options_of, read_config
from jaxforget.config import Config, check_places
from jaxforget.errors import UserError, printable
from jaxforget.evals.catalogue import NAMES
from jaxforget.start import start_jax

HELP = {
    "run": "run the whole chain on your model and text",
    "anchors": "read the dictionary of anchors, or find one in the text",
    "prepare": "tokenise, cut and translate the text into blocks",
    "reinforce": "train the base model further on the text",
    "forget": "train the student to forget the text",
    "undo": "add noise to the unlearned weights and distil the unlearned model (undo.alpha)",
    "eval": "measure all models of the run side by side",
    "export": "write the unlearned model in the Hugging Face format",
}
# A stage takes the options of the whole chain, so that one configuration serves all; its help lists its own.
EPILOG = """\
CONFIG is a YAML file (see configs/) or a run's folder, which holds its configuration. An option is
written key=value, for example forget.learning_rate=1e-6; of two for one key the later wins. A
command that was interrupted resumes where it stopped when it is run again.

{which}; defaults in brackets.

{options}
"""
ALL, OWN = "All options", "Options that matter to this stage (`jaxforget run --help` lists all)"
SUITES_EPILOG = """
suite=NAME[,NAME...] measures evaluation suites. The names are all,
{names}.
The rows of each model are stored as soon as they are measured; the same command resumes.
"""


def add(add_command) -> None:
    """Add a command for the whole chain and one for each stage."""
    for name, summary in HELP.items():
        parser = add_command(name, summary, run)
        if name == "run":
            parser.epilog = EPILOG.format(which=ALL, options=option_table(essential=True))
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="change nothing: show stages, steps, memory, disk and time",
            )
            parser.add_argument(
                "--price",
                type=number,
                metavar="USD_PER_CHIP_HOUR",
                help="with --dry-run: show the price, too",
            )
        else:
            own = options_of(name, "suites") if name == "eval" else options_of(name)
            parser.epilog = EPILOG.format(which=OWN, options=option_table(own))
        if name == "eval":
            listed = ",\n".join((", ".join(NAMES[:8]), ", ".join(NAMES[8:])))
            parser.epilog = SUITES_EPILOG.format(names=listed) + "\n" + parser.epilog
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="with suite=: measure nothing, show what an endpoint would be asked",
            )
        if name == "anchors":
            parser.add_argument(
                "--dry-run",
                action="store_true",
                help="with anchors.extractor=endpoint: ask nothing, show what the endpoint would be asked",
            )
        parser.add_argument("--again", action="store_true", help="replace results and checkpoints of other options")
        parser.add_argument("--force", action="store_true", help="fill a folder that holds other files")
        add_config(parser)


def run(given: argparse.Namespace) -> int:
    """Run the stages that the command names."""
    suites = [word for word in given.overrides if given.name == "eval" and word.startswith("suite=")]
    if given.name == "eval" and given.dry_run and not suites:
        raise UserError("--dry-run shows what suites would ask an endpoint; name them, as suite=completion")
    if given.name == "run" and given.price is not None and (not given.dry_run or given.price < 0):
        raise UserError(f"--price {given.price:g}: give a price of at least 0, together with --dry-run")
    config = read_config(given.config, [word for word in given.overrides if word not in suites])
    check_places(config, (*HELP, "report") if given.name == "run" else (given.name,))
    start_jax(alone=given.name == "anchors" and given.dry_run)
    from jaxforget.pipeline import preview_anchors, run_chain, run_suites

    names = None if given.name == "run" else (given.name,)
    given.out = config.out or ""
    if given.name == "run" and given.dry_run:
        show_estimate(config, given)
    elif given.name == "anchors" and given.dry_run:
        print(printable(preview_anchors(config)))
    elif suites:
        run_suites(config, suites[-1].removeprefix("suite="), dry_run=given.dry_run)
    else:
        run_chain(config, names, again=given.again, force=given.force)
    return 0


def show_estimate(config: Config, given: argparse.Namespace) -> None:
    """Print what the run will do and need."""
    import jax

    from jaxforget.dry_run import as_text, estimate_run

    found = estimate_run(config, again=given.again, force=given.force)
    if jax.process_index() == 0:
        print(printable(as_text(found, config, given.price)))
