"""`jaxforget completion`: what a shell offers after the words on its line."""

import shutil
import subprocess

import pytest

from tests.cli.saying import fault, status_of

BASH = """
source "$0" || exit 9
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
_jaxforget jaxforget "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script_of(shell, capsys, folder):
    assert status_of("completion", shell) == 0
    path = folder / shell
    path.write_text(capsys.readouterr().out)
    return path


def test_bash_completes_commands_flags_files_and_options(capsys, tmp_path):
    path = script_of("bash", capsys, tmp_path)
    (tmp_path / "mine.yaml").touch()

    def offered(*words):
        command = ["bash", "--norc", "-c", BASH, path, "jaxforget", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()

    assert offered("re") == ["reinforce", "report"]
    assert "--dry-run" in offered("run", "--")
    assert offered("run", "mi") == ["mine.yaml"]
    assert offered("run", "mine.yaml", "forget.le") == ["forget.learning_rate="]
    assert offered("run", "mine.yaml", "seed=1", "model.co") == ["model.control="]
    assert offered("eval", "mine.yaml", "suite=mus") == ["suite=muse"]
    assert offered("completion", "z") == ["zsh"]


def test_the_zsh_script_is_sound(capsys, tmp_path):
    path = script_of("zsh", capsys, tmp_path)
    text = path.read_text()
    assert text.startswith("#compdef jaxforget\n")
    assert "forget.learning_rate=" in text
    assert "run:'Run the whole chain on your model and text.'" in text
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-n", path], check=True)


def test_another_shell_is_refused(capsys):
    assert "invalid choice: 'fish'" in fault(capsys, "completion", "fish")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_command_of_two_words_is_not_offered_as_one(capsys, tmp_path, shell):
    assert "anchors review" not in script_of(shell, capsys, tmp_path).read_text()
