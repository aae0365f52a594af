"""What a model's folder brings with it is not run, and what was changed on disk is not read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.runtime.config import Member
from cascade.scoring.scored import Scored
from cascade.tasks.load import load_task
from probes import HiddenStateStore, ProbeError, StoreWriter
from probes.files import locked
from tests import hub_address
from tests.probes.test_store import KEY
from tests.processes import Forked

BEFORE = Path(__file__).parents[1] / "fixtures" / "written_before" / "store"
LOAD = """
import sys
from cascade.errors import CascadeError
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.settings import DecoderConfig
try:
    model = HuggingFaceModel(DecoderConfig(sys.argv[1], trust_remote_code=sys.argv[2] == "true"))
    model.tokenizer
    print(model.depth)
except CascadeError as error:
    print(error)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model whose configuration is a class of its own, which leaves a mark where it is run."""
    folder = shutil.copytree(ASSETS / "mini-llama-small", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoTokenizer": ["own.OwnTokenizer", None]}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": auto_map}))
    (folder / "own.py").write_text(
        f"open({str(tmp_path / 'marker')!r}, 'w')\nfrom transformers import LlamaConfig\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    return folder


@pytest.mark.parametrize("trusted", [False, True])
def test_a_models_own_python_is_run_only_where_that_is_asked_for(folder, tmp_path, trusted):
    (tmp_path / "yes").write_text("y\n")
    hub_address.settle(tmp_path / "home")  # where such Python is copied to
    command = ("-c", LOAD, str(folder), str(trusted).lower())
    process = Forked(*command, environment=hub_address.environment(), stdin=str(tmp_path / "yes"))
    said, warned = process.communicate(timeout=240)
    assert (tmp_path / "marker").exists() == trusted, said + warned
    assert (tmp_path / "home" / "modules").exists() == trusted
    if not trusted:
        (line,) = said.splitlines()
        assert line.startswith(f"Expected '{folder}' to need no Python of its own") and "trust_remote_code" in line
    else:
        assert f"The Python that {folder} brings with it is run" in warned


def test_trust_is_a_setting_of_a_cascades_decoder_and_part_of_a_stores_key_where_it_is_given():
    from dataclasses import replace

    assert Member(model="mini-llama-small", trust_remote_code=True).settings.trust_remote_code
    with pytest.raises(CascadeError, match="`trust_remote_code`, of a decoder"):
        Member(endpoint="x", trust_remote_code=True)
    assert "trust_remote_code" not in KEY.to_json()
    assert replace(KEY, trust_remote_code=True).digest != KEY.digest


def with_checksums(root: Path) -> HiddenStateStore:
    """The store of before, finished anew: its score rows are in the manifest."""
    key = HiddenStateStore(BEFORE).key
    folder = shutil.copytree(BEFORE, root / key.folder_name)
    writer = StoreWriter(root, key, 3, 8, shard_rows=2)
    return writer.finish([f"scores-{shard:05d}.parquet" for shard in range(2)]) if folder.exists() else None


def test_every_flip_in_score_rows_is_found(tmp_path):
    store = with_checksums(tmp_path)
    scored = Scored(store, load_task("mini-mmlu"), True)
    assert scored.table().num_rows == 3
    # Those of the second shard are read after the first, which takes time: a few are enough there.
    for name, step in (("scores-00000.parquet", 1), ("scores-00001.parquet", 25)):
        path = store.folder / name
        whole = path.read_bytes()
        for place in range(0, len(whole), step):
            data = bytearray(whole)
            data[place] ^= 1 << place % 8
            path.write_bytes(data)
            with pytest.raises(CascadeError, match=f"{name} is corrupt"):
                scored.table()
        path.write_bytes(whole)
    assert scored.table().num_rows == 3


HOLD = """
import sys, time
from pathlib import Path
from probes.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_run_writes_to_is_refused_with_who_holds_it_and_free_when_that_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(ProbeError, match=f"one run at a time, but process {other.pid} on .*, since 20"),
            locked(tmp_path),
        ):
            pass
        other.kill()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
