"""The attacks that are run by hand, in short."""

from __future__ import annotations

from experiments.attacks.files import main


def test_harm_to_a_stores_files_is_found_and_what_was_cut_off_goes_on_to_the_same_bytes():
    said: list[str] = []
    main(["--flips=40", "--kills=2"], said.append)
    assert len(said) == 5 and said[-1].endswith("the same bytes")
