"""One command, `cascade VERB`, and what each verb says of itself."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from cascade.__main__ import VERBS, main
from cascade.commands import HELP, kept_help


def test_the_kept_helps_are_what_the_parsers_say():
    # In a process of its own: how types are spelt depends on what was loaded before.
    code = "import json; from experiments.help import parsers_help; print(json.dumps(parsers_help()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb, said in json.loads(done.stdout.splitlines()[-1]).items():
        assert (HELP / f"{verb}.txt").read_text() == said, "write it again: python -m experiments.help"
        assert kept_help(verb) is not None


def test_a_help_of_other_versions_is_not_shown(monkeypatch, tmp_path):
    (tmp_path / "train.txt").write_text("lightning 1.0, jsonargparse 1.0\nusage: of long ago\n")
    monkeypatch.setattr("cascade.commands.HELP", tmp_path)
    assert kept_help("train") is None


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_module_and_a_word_behind_cascade(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"cascade.{verb}").main(["--help"])
    alone = capsys.readouterr().out
    assert ended.value.code == 0
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == alone
    assert alone.startswith(f"usage: python -m cascade.{verb}")


def test_cascade_alone_lists_its_verbs_and_an_unknown_one_is_refused(capsys):
    main([])
    listed = capsys.readouterr().out
    assert all(f"  {verb} " in listed for verb in VERBS)
    with pytest.raises(SystemExit) as ended:
        main(["cook"])
    assert ended.value.code == 2
    assert "Expected a verb (train, score, simulate" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"confidence-cascade {version('confidence-cascade')}\n"


def test_completion_knows_the_verbs_and_their_flags(capsys):
    main(["--completion", "bash"])
    script = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    asked = f"""{script}
COMP_WORDS=(cascade simulate --obj); COMP_CWORD=2; COMPREPLY=()
_shtab_cascade cascade --obj simulate; printf '%s\n' "${{COMPREPLY[@]}}"
"""
    found = subprocess.run(["bash"], input=asked, text=True, capture_output=True, check=False)
    assert "--objective" in found.stdout.split(), found.stderr
    assert "--data.layers" in script


def test_nothing_of_a_verb_that_is_not_asked_for_is_loaded():
    code = "import sys; from cascade.__main__ import main; main([]); print({'torch', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "set()"
