"""`jaxforget completion`: the script with which a shell completes commands, flags, files and options."""

import argparse

from jaxforget.config import options
from jaxforget.evals.catalogue import NAMES

EPILOG = """\
bash: add this line to ~/.bashrc
  eval "$(jaxforget completion bash)"
zsh: write the script to a file _jaxforget in a folder of $fpath, as
  jaxforget completion zsh > ~/.zfunc/_jaxforget
"""
FOLDERS = ("models", "--out")
# Bash appends a space to a complete word; after key= the value must follow.
BASH = """
_jaxforget() {
  _shtab_jaxforget
  if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o bashdefault -F _jaxforget jaxforget
"""
PREAMBLE = {
    "bash": '_jaxforget_options() {{ compgen -W "{keys} {suites}" -- "$1"; compgen -f -- "$1"; }}\n',
    "zsh": "_jaxforget_options() {{ compadd -S '' -- {keys}; compadd -- {suites}; _files }}\n",
}


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("completion", "print the script that completes commands in a shell", run)
    parser.epilog = EPILOG
    parser.add_argument("shell", metavar="SHELL", choices=tuple(PREAMBLE), help=" or ".join(PREAMBLE))


def run(given: argparse.Namespace) -> int:
    """Print the script."""
    print(script(given.shell), end="")
    return 0


def script(shell: str) -> str:
    """Return the completion script of a shell, "bash" or "zsh"."""
    import shtab

    from jaxforget.cli.main import make_parser

    parser, subparsers = make_parser()
    # Shells complete one word at a time, and this command has two. What argparse does not list is left out.
    listed = parser._subparsers._group_actions[0]._choices_actions
    listed[:] = [command for command in listed if command.dest != "anchors review"]
    for subparser in subparsers.values():
        for action in subparser._actions:
            flag = action.option_strings[-1] if action.option_strings else action.dest
            if flag == "overrides":
                action.complete = {shell: "_jaxforget_options"}
            elif flag in FOLDERS:
                action.complete = shtab.DIRECTORY
            elif flag == "config" or action.metavar == "FILE":
                action.complete = shtab.FILE
    keys = " ".join(f"{name}=" for name, _ in options())
    suites = " ".join(f"suite={name}" for name in ("all", *NAMES))
    preamble = {name: text.format(keys=keys, suites=suites) for name, text in PREAMBLE.items()}
    made = shtab.complete(parser, shell=shell, preamble=preamble)
    return made + BASH if shell == "bash" else made
