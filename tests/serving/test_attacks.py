"""The attacks of `experiments.attacks.http`, in their short form."""

from __future__ import annotations

import hmac
import subprocess

from experiments.attacks.http import ATTACKS, main
from tests.processes import instead_of_popen
from tests.serving.running import Plain, plain_cascade, running


def test_no_attack_gets_through(capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", instead_of_popen)
    main(["--share", "0.03"])
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [attack.__name__ for attack in ATTACKS]


def test_a_key_is_compared_with_every_known_one_in_constant_time(monkeypatch):
    """By `hmac.compare_digest`, of hashes of one length, as often whichever key comes."""
    compared = []
    compare = hmac.compare_digest

    def spy(a, b):
        compared.append((len(a), len(b)))
        return compare(a, b)

    with running(plain_cascade(Plain("a"), Plain("b")), keys=["first", "second", "third"]) as server:
        monkeypatch.setattr(hmac, "compare_digest", spy)
        for key, admitted in (("first", True), ("third", True), ("", False), ("f" * 5000, False), ("firs", False)):
            compared.clear()
            assert server.service.admits(f"Bearer {key}") == admitted
            assert compared == [(32, 32)] * 3
