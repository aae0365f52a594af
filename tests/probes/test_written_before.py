"""Stores and checkpoints that earlier versions wrote are read, with the numbers that were put in."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from probes import HiddenStateStore, Probe, StoreWriter
from probes.states import StoredStates

BEFORE = Path(__file__).parents[1] / "fixtures" / "written_before"
STATES = {
    layer: np.array([[(layer + 1) * (row + 1) + column / 8 for column in range(8)] for row in range(3)])
    for layer in (0, 1)
}


def test_a_store_of_before_holds_its_states():
    store = HiddenStateStore(BEFORE / "store")
    assert (store.rows, store.hidden_size, store.num_shards, store.layers) == (3, 8, 2, (0, 1))
    assert (store.key.model, store.key.model_revision, store.key.task) == ("org/tiny", "r0", "tiny")
    for layer, expected in STATES.items():
        assert np.array_equal(store.layer(layer), expected)
    mapped = StoredStates(store, (0, 1)).gather(torch.tensor([2, 0]))
    assert np.array_equal(mapped, np.stack([STATES[layer][[2, 0]] for layer in (0, 1)]))


def test_the_key_of_a_store_of_before_is_still_the_same():
    key = HiddenStateStore(BEFORE / "store").key
    assert key.folder_name == "org--tiny--tiny--f1e95aa2546f"  # the folder's name when it was written


def test_a_store_that_was_cut_off_before_goes_on(tmp_path):
    key = HiddenStateStore(BEFORE / "store").key
    folder = shutil.copytree(BEFORE / "store", tmp_path / key.folder_name)
    (folder / "manifest.json").unlink()
    (folder / "shard-00001.safetensors").unlink()
    writer = StoreWriter(tmp_path, key, 3, 8, shard_rows=2)
    assert writer.pending() == [1]
    writer.write(1, {layer: torch.from_numpy(states[2:]).float() for layer, states in STATES.items()})
    shard = "shard-00001.safetensors"
    assert (folder / shard).read_bytes() == (BEFORE / "store" / shard).read_bytes()
    assert np.array_equal(writer.finish().layer(1), STATES[1])


def by_hand(state: np.ndarray, mean: np.ndarray) -> float:
    """The logit of the head that both checkpoints hold."""
    standardised = (state - mean) / (1 + np.arange(8) / 8)
    hidden = (np.arange(24).reshape(3, 8) - 12) / 64 @ standardised + [0.5, 0, -0.5]
    return float([1, -2, 0.5] @ np.maximum(hidden, 0) + 0.125)


@pytest.mark.parametrize("row", range(3))
def test_a_probe_of_before_gives_its_p_ik(row):
    probe, state = Probe.from_pretrained(BEFORE / "probe"), STATES[1][row]
    logit = np.exp(-0.5) * by_hand(state, np.arange(8) / 4) + 0.25
    assert float(probe.predict(state)) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    config = probe.config
    assert (config.base_model, config.layer, config.threshold, config.calibration) == ("org/tiny", 1, 0.25, "platt")
    assert (config.metrics, config.trained_with) == ({"auroc": 0.75}, {"seed": 0, "learning_rate": 0.5})


@pytest.mark.parametrize("row", range(3))
def test_an_ensemble_of_before_gives_its_p_ik(row):
    probe, state = Probe.from_pretrained(BEFORE / "ensemble"), STATES[0][row]
    chances = [1 / (1 + np.exp(-by_hand(state, mean))) for mean in (np.arange(8) / 4, np.zeros(8))]
    expected = np.mean([np.interp(chance, [0, 0.5, 1], [0.125, 0.25, 0.875]) for chance in chances])
    assert float(probe.predict(state)) == pytest.approx(expected, abs=1e-12)
