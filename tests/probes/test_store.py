from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from probes import HiddenStateStore, ProbeError, StoreKey, StoreWriter
from probes import store as store_module

KEY = StoreKey(
    model="org/model",
    model_revision="r1",
    tokenizer_hash="t",
    template_hash="p",
    task="task",
    task_revision="q",
    dtype="float32",
    layers=(0, 2),
    position="last_prompt_token",
    versions={"torch": "2.13"},
)
ROWS, HIDDEN, SHARD = 25, 6, 10


def states(key: StoreKey = KEY) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    dtype = store_module.DTYPES[key.dtype]
    return {layer: torch.randn(ROWS, HIDDEN, generator=generator).to(dtype) for layer in key.layers}


def write(root, key=KEY, only=None) -> StoreWriter:
    writer = StoreWriter(root, key, ROWS, HIDDEN, shard_rows=SHARD)
    for number in writer.pending() if only is None else only:
        rows = writer.shards[number]
        writer.write(number, {layer: s[rows.start : rows.stop] for layer, s in states(key).items()})
    return writer


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_was_written_is_read(tmp_path, dtype):
    key = replace(KEY, dtype=dtype)
    store = write(tmp_path, key).finish()
    reopened = HiddenStateStore(store.folder, expect=key)
    for layer, expected in states(key).items():
        assert torch.equal(reopened.layer(layer), expected)
        assert [len(part) for part in reopened.iter_layer(layer)] == [10, 10, 5]


def test_a_store_written_in_pieces_and_any_order_has_the_same_bytes(tmp_path):
    whole = write(tmp_path / "whole").finish()
    write(tmp_path / "pieces", only=[2])
    write(tmp_path / "pieces", only=[0])
    pieces = write(tmp_path / "pieces").finish()
    assert contents(whole.folder) == contents(pieces.folder)


def test_an_unfinished_store_is_no_store(tmp_path):
    writer = write(tmp_path, only=[0, 1])
    with pytest.raises(ProbeError, match="1 are missing"):
        writer.finish()
    with pytest.raises(ProbeError, match="finished"):
        HiddenStateStore(writer.folder)


def test_another_key_is_another_folder_and_a_renamed_one_is_refused(tmp_path):
    store = write(tmp_path).finish()
    other = replace(KEY, model_revision="r2")
    assert StoreWriter(tmp_path, other, ROWS, HIDDEN).folder != store.folder
    with pytest.raises(ProbeError, match="model_revision='r1' instead of 'r2'"):
        HiddenStateStore(store.folder, expect=other)
    shutil.copytree(store.folder, tmp_path / other.folder_name, dirs_exist_ok=True)
    with pytest.raises(ProbeError, match="Expected shard"):
        StoreWriter(tmp_path, other, ROWS, HIDDEN, shard_rows=SHARD).pending()


@pytest.mark.parametrize("place", [-1, -40, 200, 20])
def test_a_flipped_bit_is_never_read(tmp_path, place):
    store = write(tmp_path).finish()
    path = store.folder / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)

    def read_and_resume() -> None:
        for layer in (0, 2):
            HiddenStateStore(store.folder).layer(layer)
        # A flip in the shard's own header is caught where the header is used: on resuming.
        StoreWriter(tmp_path, KEY, ROWS, HIDDEN, shard_rows=SHARD).finish()

    with pytest.raises(ProbeError, match="shard-00001.safetensors"):
        read_and_resume()


def test_a_truncated_or_missing_shard_is_named(tmp_path):
    store = write(tmp_path).finish()
    path = store.folder / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ProbeError, match="shard-00002.safetensors is corrupt"):
        HiddenStateStore(store.folder).layer(0)
    with pytest.raises(ProbeError, match="shard-00002.safetensors is corrupt"):
        StoreWriter(tmp_path, KEY, ROWS, HIDDEN, shard_rows=SHARD).pending()
    path.unlink()
    with pytest.raises(ProbeError, match="shard-00002.safetensors is missing"):
        HiddenStateStore(store.folder)


def test_a_newer_format_is_refused(tmp_path):
    store = write(tmp_path).finish()
    manifest = json.loads((store.folder / "manifest.json").read_text())
    (store.folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ProbeError, match="format 2, but got 99"):
        HiddenStateStore(store.folder)


def test_states_that_are_not_numbers_or_have_another_shape_are_refused(tmp_path):
    writer = StoreWriter(tmp_path, KEY, ROWS, HIDDEN, shard_rows=SHARD)
    good = {layer: s[:10].clone() for layer, s in states().items()}
    good[2][7, 3] = float("nan")
    with pytest.raises(ProbeError, match="row 7 of layer 2"):
        writer.write(0, good)
    with pytest.raises(ProbeError, match=r"rows 0:10 to be \(10, 6\), but got \(9, 6\)"):
        writer.write(0, {layer: s[:9] for layer, s in states().items()})
    assert list(writer.folder.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    writer = StoreWriter(tmp_path, KEY, ROWS, HIDDEN)
    assert writer.total_bytes == ROWS * HIDDEN * 4 * len(KEY.layers)
    with pytest.raises(ProbeError, match=r"1,200 free bytes.*but got 1"):
        writer.check_room()


def test_a_layer_that_was_not_kept_is_named(tmp_path):
    with pytest.raises(ProbeError, match=r"one of \[0, 2\].*but got 1"):
        write(tmp_path).finish().layer(1)
