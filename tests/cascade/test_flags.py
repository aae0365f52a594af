"""Command lines say in words what is wrong with a flag."""

from __future__ import annotations

import re
from argparse import ArgumentError

import pytest

from cascade.probing.cli import command_line
from cascade.simulate import main


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--chian=a,b", r"flags that there are, but got '--chian=a,b'; did you mean --chain\?"),
        ("--evaluate=mini-gpqa", r"but got '--evaluate=mini-gpqa'; did you mean --evaluate_on\?"),  # no abbreviation
        ("--xyzzy=1", r"but got '--xyzzy=1'; --help lists them"),
        ("--p_t=high", r"`p_t` to be a number or null, but got 'high'"),
        ("--logger=paper", r"`logger` to be none or wandb, but got 'paper'"),
    ],
)
def test_a_flag_of_a_verb_that_is_wrong_is_one_line_with_what_was_meant(flag, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([flag])
    assert stop.value.code == 2
    assert re.search(f"^error: Expected .*{message}$", capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--trainer.max_epoch=3", r"but got '--trainer.max_epoch=3'; did you mean --trainer.max_epochs\?"),
        ("--layers=all", r"but got '--layers=all'; did you mean --data.layers\?"),
        ("--data.layers=most", r"`data.layers` to be all, whole numbers such as \[1,2\] or null, but got 'most'"),
        ("--keep=some", r"`keep` to be best or all, but got 'some'"),
    ],
)
def test_a_flag_of_training_that_is_wrong_is_said_in_the_same_words(flag, message):
    with pytest.raises(ArgumentError, match=f"^Expected {message}" if "`" in message else message):
        command_line([flag], "train", "")
