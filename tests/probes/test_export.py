from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import HfApi

from probes import HeadConfig, Probe, save_onnx
from probes.calibration import CALIBRATORS
from tests.probes.test_probe import CONFIG, probe


@pytest.mark.parametrize("calibration", CALIBRATORS)
def test_the_onnx_model_gives_the_same_numbers(tmp_path, calibration):
    made = probe(replace(CONFIG, calibration=calibration, head=HeadConfig(width=5, depth=1, activation="gelu")))
    session = onnxruntime.InferenceSession(save_onnx(made, tmp_path / "probe.onnx"))
    for rows in (1, 2, 37):  # any number of rows
        states = np.random.default_rng(rows).normal(size=(rows, 8)).astype(np.float32)
        (p_ik,) = session.run(["p_ik"], {"states": states})
        np.testing.assert_allclose(p_ik, made.predict(states), rtol=0, atol=1e-5)


def sample(card: str) -> str:
    """The code of a model card, as printed."""
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def test_the_code_of_the_model_card_runs_as_printed(tmp_path):
    made = probe(replace(CONFIG, metrics={"auroc": 0.8123}))
    made.picture = b"\x89PNG"
    folder = made.save_pretrained(tmp_path / "probe")
    card = (folder / "README.md").read_text()
    assert "| auroc | 0.8123 |" in card
    assert "(reliability.png)" in card
    code = sample(card) + "print(p_ik.shape, float(p_ik.min()) >= 0)"
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, env=os.environ | path
    )
    assert done.stdout == "(3,) True\n", done.stderr
    assert Probe.from_pretrained(folder).picture == made.picture


def test_what_is_pushed_is_the_whole_checkpoint_and_its_card_names_the_hub(tmp_path, monkeypatch):
    """The Hub's two calls are the edge: what is handed to them is looked at."""
    pushed = {}

    def upload(self, *, repo_id, folder_path, **_):
        pushed.update({p.name: p.read_bytes() for p in Path(folder_path).iterdir()})
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    made = probe()
    assert made.push_to_hub("someone/p-ik") == "https://hub/someone/p-ik"
    assert set(pushed) == {"config.json", "model.safetensors", "README.md"}
    assert 'from_pretrained("someone/p-ik")' in sample(pushed["README.md"].decode())
    for name, content in pushed.items():
        (tmp_path / name).write_bytes(content)
    states = torch.randn(4, 8)
    assert np.array_equal(Probe.from_pretrained(tmp_path).predict(states), made.predict(states))


def test_arrays_and_tensors_of_any_kind_and_shape_are_read():
    made = probe()
    states = torch.randn(2, 3, 8, dtype=torch.float64)
    expected = made.predict(states.float())
    for kind in (states, states.numpy(), states.numpy().astype(np.float32), states.float()):
        np.testing.assert_allclose(made.predict(kind), expected, atol=1e-6)
    np.testing.assert_allclose(made.predict(states[0, 0]), expected[0, 0], atol=1e-6)
    assert made.predict(states[:0]).shape == (0, 3)
