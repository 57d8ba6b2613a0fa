"""`jaxforget compare` as a command: each wrong word gets one line."""

import pytest

from tests.cli.saying import fault


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "methods= is not given; name the methods to compare, as methods=whp,npo"),
        (["methods="], "methods= is not given"),
        (["methods=whp,nop"], "methods=nop: no such method; did you mean npo?"),
        (["methods=whp", "seeds=one"], "seeds=one: give whole numbers, separated by commas"),
        (["methods=whp", "seeds="], "seeds=: give whole numbers"),
        (["methods=whp", "seeds=1,1"], "seeds: 1 is given twice"),
        (["methods=whp", "trials=0"], "trials=0: give a whole number from 1 to 12"),
        (["methods=whp", "trials=2,3"], "trials=2,3: give one whole number"),
        (["methods=whp", "forget.lr=1"], "unknown key 'forget.lr'"),
    ],
)
def test_wrong_words_get_one_line(capsys, config, words, message):
    assert message in fault(capsys, "compare", config, *words)


def test_a_run_suggests_the_command_for_its_words(capsys, config):
    assert "did you mean `jaxforget compare CONFIG methods=NAME,NAME`?" in fault(capsys, "run", config, "methods=whp")
