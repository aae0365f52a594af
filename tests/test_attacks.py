"""The attacks that are run by hand, in short."""

from __future__ import annotations

import subprocess

from experiments.attacks.files import main
from tests.processes import instead_of_popen


def test_harm_to_a_stores_files_is_found_and_what_was_cut_off_goes_on_to_the_same_bytes(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", instead_of_popen)
    said: list[str] = []
    main(["--flips=40", "--kills=2"], said.append)
    assert len(said) == 5 and said[-1].endswith("the same bytes")
