from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from probes import HeadConfig, Probe, ProbeConfig, ProbeError
from probes.calibration import CALIBRATORS

CONFIG = ProbeConfig(hidden_size=8, layer=2, base_model="base", base_revision="r", num_layers=3, calibration="platt")


def probe(config: ProbeConfig = CONFIG) -> Probe:
    torch.manual_seed(0)
    made = Probe(config)
    made.mean.copy_(torch.randn(8))
    made.scale.copy_(torch.rand(8) + 0.5)
    made.calibrator.fit(torch.randn(40), (torch.rand(40) > 0.4).float())
    return made.eval()


@pytest.mark.parametrize("calibration", CALIBRATORS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_saved_probe_gives_the_same_numbers(tmp_path, depth, calibration):
    original = probe(replace(CONFIG, head=HeadConfig(width=5, depth=depth), calibration=calibration))
    loaded = Probe.from_pretrained(original.save_pretrained(tmp_path / "probe"))
    states = torch.randn(4, 3, 8)
    assert loaded.config == original.config
    assert np.array_equal(loaded.predict(states), original.predict(states))
    assert loaded.predict(states).shape == (4, 3)


def test_a_probe_shows_the_layer_and_the_model_that_it_reads():
    assert "layer 2 of 3 of base, hidden size 8" in repr(probe())
    assert "layer 2 of base, hidden size 8" in repr(probe(replace(CONFIG, num_layers=0)))


def test_p_ik_is_the_formula_written_out():
    made = probe(replace(CONFIG, head=HeadConfig(width=5, depth=1)))
    state = np.random.default_rng(0).normal(size=8).astype(np.float32)
    first, last = made.head[0], made.head[-1]
    hidden = (state - made.mean.numpy()) / made.scale.numpy()
    hidden = np.maximum(first.weight.detach().numpy() @ hidden + first.bias.detach().numpy(), 0)
    logit = float(last.weight.detach().numpy()[0] @ hidden + last.bias.detach().numpy()[0])
    logit = np.exp(float(made.calibrator.log_slope)) * logit + float(made.calibrator.bias)
    assert float(made.predict(state)) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


def test_half_precision_states_are_read_as_float32():
    states = torch.randn(5, 8).half()
    assert np.array_equal(probe().predict(states), probe().predict(states.float()))


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_a_checkpoint_with_a_wrong_tensor_is_refused(tmp_path, change):
    folder = probe().save_pretrained(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["head.0.weight"]
    elif change == "unexpected":
        tensors["extra"] = torch.zeros(1)
    else:
        tensors["mean"] = torch.zeros(9)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ProbeError, match="head.0.weight|extra|mean"):
        Probe.from_pretrained(folder)


@pytest.mark.parametrize("values", [[0.4, 0.3, 0.9], [0.3, 0.9]])
def test_a_calibrator_that_is_not_monotone_is_refused(tmp_path, values):
    folder = probe(replace(CONFIG, calibration="isotonic")).save_pretrained(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"calibrator.knots": torch.tensor([-1.0, 0.0, 1.0]), "calibrator.values": torch.tensor(values)}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ProbeError, match="not to decrease"):
        Probe.from_pretrained(folder)


def test_a_config_of_a_newer_format_or_with_unknown_fields_is_refused(tmp_path):
    folder = probe().save_pretrained(tmp_path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"format": 2}))
    with pytest.raises(ProbeError, match="format 1, but got 2"):
        Probe.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values | {"surprise": 1}))
    with pytest.raises(ProbeError, match="surprise"):
        Probe.from_pretrained(folder)


WRONG = {
    "layer": ("3", -3, 1.5, True, None),
    "hidden_size": ("48", 0, 8.0),
    "num_layers": (-1, "3"),
    "members": (0, "two"),
    "threshold": (7, -0.1, "x", float("nan"), None, True),
    "base_model": (5, None),
    "template_hash": (None,),
    "calibrates": ("the logit",),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_setting_that_is_out_of_its_range_is_named_made_or_read(tmp_path, name, value):
    with pytest.raises(ProbeError, match=f"^Expected `{name}` to be .*, but got {value!r}$"):
        replace(CONFIG, **{name: value})
    folder = probe().save_pretrained(tmp_path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {name: value}))
    with pytest.raises(ProbeError, match=f"config.json is corrupt: Expected `{name}` to be .*, but got {value!r}$"):
        Probe.from_pretrained(folder)


def test_numbers_of_numpy_are_settings_that_can_be_saved(tmp_path):
    config = replace(CONFIG, hidden_size=np.int64(8), layer=np.int32(2), threshold=np.float32(0.25))
    assert Probe.from_pretrained(probe(config).save_pretrained(tmp_path)).config == replace(CONFIG, threshold=0.25)


@pytest.mark.parametrize("value", [0.0, -1.0])
@pytest.mark.parametrize("name", ["scale", "others.0.scale"])
def test_states_are_not_divided_by_zero_or_less(tmp_path, name, value):
    folder = probe(replace(CONFIG, members=2)).save_pretrained(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][3] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ProbeError, match=rf"tensor '{name}' in .* to be positive, but it goes down to {value:g}"):
        Probe.from_pretrained(folder)


def test_wrong_width_and_states_that_are_not_numbers_are_refused():
    with pytest.raises(ProbeError, match=r"\[..., 8\], but got \(2, 7\)"):
        probe().predict(torch.zeros(2, 7))
    with pytest.raises(ProbeError, match="finite"):
        probe().predict(torch.full((8,), float("inf")))


@pytest.mark.parametrize("view", [lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::2, ::-1].T.copy().T])
def test_any_view_of_an_array_is_read_as_its_copy(view):
    states = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    assert np.array_equal(probe().predict(view(states)), probe().predict(view(states).copy()))
    assert probe().predict(states[0][::-1]).shape == ()


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("calibration", ["none", "isotonic", "beta"])
def test_states_too_large_for_a_number_are_no_p_ik_of_nan(depth, calibration):
    made = probe(replace(CONFIG, head=HeadConfig(width=5, depth=depth), calibration=calibration))
    made.scale.fill_(0.1)
    states = np.stack([np.ones(8), np.tile([3e38, -3e38], 4)]).astype(np.float32)
    assert np.isfinite(made.predict(states[0]))
    with pytest.raises(ProbeError, match="goes up to 3e\\+38, of which P\\(IK\\) is NaN"):
        made.predict(states)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProbeError, match="no-such-folder"):
        Probe.from_pretrained("no-such-folder")
    with pytest.raises(ProbeError, match="no config.json"):
        Probe.from_pretrained(tmp_path)


ISOLATED = """
import sys

BLOCKED = set("lightning transformers datasets wandb torchmetrics cascade scipy sklearn pyarrow skops".split())

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import probes
from probes import *
import torch
probe = probes.Probe.from_pretrained(sys.argv[1])
print(repr(float(probe.predict(torch.arange(8.0)))))
"""


def test_a_checkpoint_loads_where_there_is_only_torch_and_numpy(tmp_path):
    made = probe()
    folder = made.save_pretrained(tmp_path / "probe")
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED, str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == float(made.predict(torch.arange(8.0)))
