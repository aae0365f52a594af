"""The benchmarks of heads, stores, capture and the frontier run at any size and end in their figures as JSON.

Nothing is said here of how fast anything is.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from experiments.benchmarks.capture import WAYS
from experiments.benchmarks.capture import main as capture
from experiments.benchmarks.frontier import main as frontier
from experiments.benchmarks.probes import main as heads
from experiments.benchmarks.store import main as store
from tests.processes import instead_of_run

MACHINE = {"threads", "load"}


def figures(main, capsys, **flags) -> dict:
    main([f"--{name}={value}" for name, value in flags.items()])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("sklearn", [True, False])
def test_heads_are_timed_stacked_and_one_by_one_and_against_scikit_learn(capsys, sklearn):
    flags = {"layers": 2, "hidden": 8, "rows": 400, "epochs": 1}
    found = figures(heads, capsys, **flags, repeats=1, sklearn=sklearn)
    rivals = {"stacked", "one after another", "arithmetic", *(["scikit-learn"] if sklearn else [])}
    assert found.keys() == {*flags, "seconds", "speedup"} | MACHINE
    assert flags.items() <= found.items()
    assert found["seconds"].keys() == found["speedup"].keys() == rivals
    assert found["speedup"]["stacked"] == 1


def test_reading_is_timed_against_numpy(capsys):
    found = figures(store, capsys, rows=300, hidden=8, layers=2, repeats=1)
    assert found.keys() == {"rows", "hidden", "milliseconds", "ratio"} | MACHINE
    assert (found["rows"], found["hidden"], found["ratio"]["fromfile"]) == (300, 8, 1)
    assert found["milliseconds"].keys() == found["ratio"].keys() == {"fromfile", "again", "checked"}


def test_capture_is_timed_and_weighed_against_a_bare_pass(capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", instead_of_run)
    flags = {"layers": 2, "hidden": 16, "batch": 2, "time": 4}
    found = figures(capture, capsys, **flags, repeats=1)
    assert found.keys() == {*flags, "seconds", "time_over_bare", "extra_mib"} | MACHINE
    assert flags.items() <= found.items()
    assert found["seconds"].keys() == found["time_over_bare"].keys() == found["extra_mib"].keys() == set(WAYS)
    assert found["time_over_bare"]["bare"] == found["extra_mib"]["bare"] == 0


def test_the_frontier_and_certification_are_timed(capsys, tmp_path):
    two, three = figures(frontier, capsys, sizes="[300]", models="[2, 3]", repeats=1, plot=tmp_path / "p.png")
    whole = {f"{name}_cpu_seconds" for name in ("frontier", "by_sweeps", "floor")}
    certified = {name for of in ("p_t", "all") for name in (f"ladders_{of}", f"certify_{of}_cpu_seconds")}
    assert whole <= two.keys() and certified <= three.keys()
    # Of three sub-chains P(T), P(IK), and both: at one level, or behind each of three gates.
    assert (three["ladders_p_t"], three["ladders_all"]) == (3, 3 * (1 + 1 + 1 + 3))
    assert (tmp_path / "p.png").stat().st_size > 1000
