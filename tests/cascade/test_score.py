"""Several processes at one scoring run, some of them killed: the result is that of a single one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.probing.apart import Rank, rank_of
from cascade.score import build_parser, main
from cascade.scoring.scored import score, score_share
from cascade.tasks.load import load_task
from probes.files import write_atomically
from tests.processes import Forked

MODEL, TASK, DEADLINE = "mini-llama-small", "mini-mmlu", 240.0
COMMAND = ["-m", "cascade.score", f"--data.model={MODEL}", f"--data.task={TASK}", "--devices=2"]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith("seconds")}


@pytest.fixture(scope="module")
def whole(made_once) -> dict[str, bytes]:
    """By a single process, on one thread as each of the others."""
    return contents(made_once.runs / made_once.store(MODEL))


def start(stores: Path, **environment: str) -> Forked:
    outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    return Forked(
        *COMMAND,
        f"--data.stores={stores}",
        environment=outside | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | environment,
    )


def wait_for(condition, message: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(0.002)


def shards(stores: Path, rank: int) -> list[int]:
    numbers = sorted(int(p.stem.split("-")[1]) for p in stores.glob("*/shard-*"))
    return [number for number in numbers if number % 2 == rank]


def test_a_rank_that_is_killed_is_started_again_alone_and_the_result_is_one_processs(whole, tmp_path):
    ranks = [start(tmp_path, LOCAL_RANK=str(rank)) for rank in range(2)]
    wait_for(lambda: shards(tmp_path, 1), "rank 1 wrote nothing")
    ranks[1].kill()
    ranks[1].wait()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/shard-*") if int(p.stem.split("-")[1]) % 2}
    wait_for(lambda: shards(tmp_path, 0) == [0, 2, 4, 6], "rank 0 did not go on")
    assert len(before) < 4
    time.sleep(2)
    assert ranks[0].poll() is None  # it waits for the other
    assert not list(tmp_path.glob("*/manifest.json"))
    again = start(tmp_path, LOCAL_RANK="1")
    _, said = again.communicate(timeout=DEADLINE)
    assert again.returncode == 0
    assert f"{1024 * len(before):,} rows are there already" in said
    _, waited = ranks[0].communicate(timeout=DEADLINE)
    assert ranks[0].returncode == 0
    assert "Waiting for" in waited
    assert {p: p.stat().st_mtime_ns for p in before} == before  # what was there was not computed again
    (folder,) = tmp_path.iterdir()
    assert contents(folder) == whole


def test_the_ranks_are_started_and_end_together_and_the_same_command_goes_on(whole, tmp_path):
    first = start(tmp_path)
    wait_for(lambda: shards(tmp_path, 1), "rank 1 wrote nothing")
    (child,) = psutil.Process(first.pid).children()
    child.kill()
    _, said = first.communicate(timeout=DEADLINE)
    assert first.returncode == 2
    assert "error: The process of LOCAL_RANK=1 ended with code -9; the same command goes on from what is there" in said
    assert not list(tmp_path.glob("*/manifest.json"))
    second = start(tmp_path)
    assert second.communicate(timeout=DEADLINE) is not None
    assert second.returncode == 0
    (folder,) = tmp_path.iterdir()
    assert contents(folder) == whole
    assert score(MODEL, TASK, tmp_path).reused


@pytest.mark.parametrize(
    ("environment", "given", "found"),
    [
        ({}, (1, 1), Rank(0, 1, 0)),
        ({}, (4, 2), Rank(0, 8, 0, starts=True)),
        ({"NODE_RANK": "1"}, (4, 2), Rank(4, 8, 0, starts=True)),
        ({"NODE_RANK": "1", "LOCAL_RANK": "3"}, (4, 2), Rank(7, 8, 3)),
        # As torchrun and srun have it on the second of two machines.
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (1, 1), Rank(5, 8, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (4, 2), Rank(5, 8, 1)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, (1, 1), Rank(5, 8, 1)),
        # A batch script that srun has not started: one process, whatever the job asked for.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, (2, 1), Rank(0, 2, 0, starts=True)),
    ],
)
def test_which_process_it_is_is_said_by_who_started_it(environment, given, found):
    assert rank_of(*given, environment) == found


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "Expected RANK to be a number below 2, but got '2'"),
        ({"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}, "Expected WORLD_SIZE=3 processes, as were started"),
        ({"LOCAL_RANK": "two"}, "Expected LOCAL_RANK to be a number below 2, but got 'two'"),
        ({"NODE_RANK": "1"}, "Expected NODE_RANK to be a number below 1, but got '1'"),
    ],
)
def test_a_place_that_cannot_be_is_refused(environment, message):
    with pytest.raises(CascadeError, match=message):
        rank_of(2, 1, environment)


def test_each_of_three_ranks_writes_its_own_shards_in_any_order(tmp_path):
    whole_task = load_task("mini-gpqa")
    model = DecoderConfig(MODEL).build()
    single = score(model, whole_task, tmp_path / "one", shard_rows=50).store.folder
    folder = tmp_path / "three" / single.name
    for rank, own in ((2, {2, 5, 8}), (1, {1, 4, 7})):
        before = set(folder.glob("shard-*"))
        assert score_share(model, whole_task, tmp_path / "three", shard_rows=50, rank=rank, ranks=3) is None
        assert {int(p.stem[-5:]) for p in set(folder.glob("shard-*")) - before} == own
    scored = score_share(model, whole_task, tmp_path / "three", shard_rows=50, rank=0, ranks=3)
    assert contents(scored.store.folder) == contents(single)
    assert score_share(model, whole_task, tmp_path / "three", shard_rows=50, rank=2, ranks=3).reused


def test_what_another_machine_is_writing_is_let_be(tmp_path):
    """A process id says nothing of another machine's processes."""
    store = score(MODEL, "mini-gpqa", tmp_path).store.folder
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    elsewhere = store / f".shard-00001.safetensors.another-host.{gone.pid}.partial"
    elsewhere.write_bytes(b"half")
    (store / "manifest.json").unlink()
    from probes.files import _HOST

    here = store / f".shard-00002.safetensors.{_HOST}.{gone.pid}.partial"
    here.write_bytes(b"half")
    score(MODEL, "mini-gpqa", tmp_path)
    assert elsewhere.exists() and not here.exists()
    write_atomically(store / "whole", b"x")
    assert not list(store.glob(".whole*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--devices=0"], "`devices` and `num_nodes` of at least 1, but got 0"),
        (["--devices=2", "--data.device_map=auto"], "Expected one device for `device_map` 'auto'"),
        (["--data.store=somewhere"], "Expected no `store`"),
        (["--data.model=mini-llama-huge"], "but got 'mini-llama-huge'"),
    ],
)
def test_what_cannot_be_is_one_line(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_flags_are_those_of_training():
    values = build_parser().parse_args(["--data.model=mini-llama-medium", "--data.layer=2", "--devices=4"])
    assert (values.data.model, values.data.layer, values.devices, values.num_nodes) == ("mini-llama-medium", 2, 4, 1)
