"""A checkpoint's card and picture, where somebody else wrote what is in them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from probes import Probe, ProbeError
from tests.probes.test_probe import CONFIG, probe

HOSTILE = "a/b\n---\n# Title\n<script>alert(1)</script> [x](javascript:y) `code` | *b*\u202e"


def test_names_in_a_card_are_no_markup(tmp_path):
    names = "base_model base_revision task task_revision template_hash split_fingerprint position label".split()
    config = replace(CONFIG, **dict.fromkeys(names, HOSTILE), metrics={HOSTILE: 0.5}, trained_with={HOSTILE: 1})
    card = (probe(config).save_pretrained(tmp_path) / "README.md").read_text()
    sound = (probe(CONFIG).save_pretrained(tmp_path / "sound") / "README.md").read_text()
    assert card.count("\n---\n") == sound.count("\n---\n") and card.count("\n#") == sound.count("\n#")
    assert "\u202e" not in card
    outside_code = re.sub(r"`[^`\n]*`", "", card.partition("```python")[0].replace("\\`", "'"))
    assert not re.search(r"(?<!\\)[<\[*]", outside_code.replace("tags: [", ""))


@pytest.mark.parametrize("place", ["outside", "blobs"])
def test_a_picture_that_is_a_link_out_of_its_folder_is_refused_and_one_in_the_hubs_cache_is_read(tmp_path, place):
    folder = probe().save_pretrained(tmp_path / "snapshots" / "commit")
    (tmp_path / place).mkdir()
    (tmp_path / place / "file").write_bytes(b"\x89PNG of somebody")
    (folder / "reliability.png").symlink_to(tmp_path / place / "file")
    if place == "blobs":
        assert Probe.from_pretrained(folder).picture == b"\x89PNG of somebody"
    else:
        with pytest.raises(ProbeError, match="reliability.png to lie in its folder, but it is a link to"):
            Probe.from_pretrained(folder)


def test_a_picture_that_is_none_is_refused(tmp_path):
    folder = probe().save_pretrained(tmp_path)
    (folder / "reliability.png").write_bytes(b"a secret")
    with pytest.raises(ProbeError, match="to be a PNG"):
        Probe.from_pretrained(folder)
