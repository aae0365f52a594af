"""Files that were made to harm whoever loads them: refused in a line, before they cost memory or time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from skops import io as skops

from probes import Probe, ProbeError, probe_from_file, probe_from_sklearn
from tests.probes.test_foreign import ORIGIN, data
from tests.probes.test_probe import probe
from tests.processes import Forked

# What is over the limit fails there and then, with MemoryError or worse: nothing has to be measured.
LOADED = """
import resource, sys
import probes
from probes import Probe, ProbeError, probe_from_file
import torch, safetensors.torch
resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    if sys.argv[2] == "folder":
        Probe.from_pretrained(sys.argv[1])
    else:
        probe_from_file(sys.argv[1], layer=1, base_model="base")
except ProbeError as error:
    print(error)
"""


def said_of(path: Path, kind: str) -> str:
    """The refusal, by a process that has 3 GiB and 20 seconds of a core."""
    process = Forked("-c", LOADED, str(path), kind)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (process.returncode, errors[-500:])
    assert said.count("\n") == 1, "it was loaded"
    return said


def with_config(folder: Path, **values: Any) -> Path:
    """A sound checkpoint whose configuration says otherwise."""
    probe().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    values = {name: config[name] | value if name == "head" else value for name, value in values.items()}
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 10**6}, r"'mean' .* to be \(1000000,\), but got \(8,\)"),
        ({"hidden_size": 10**9}, "`hidden_size` to be a whole number from 1 to .*, but got 1000000000"),
        ({"members": 10**4}, "'others.0.mean' in .*, but it is missing"),
        ({"members": 10**5}, "`members` to be a whole number from 1 to 10000, but got 100000"),
        ({"head": {"depth": 100}}, "'head.3.weight' .* to be|'head.6.weight' in .*, but it is missing"),
        ({"head": {"depth": 10**7}}, "`depth` to be a whole number from 0 to 100, but got 10000000"),
        ({"head": {"width": 10**6}}, r"'head.0.weight' .* to be \(1000000, 8\)"),
        ({"head": {"width": 10**6, "depth": 20}}, "'head.6.weight' in .*, but it is missing"),
        ({"head": {"width": [10**30]}}, "`width` to be a whole number from 1 to"),
    ],
)
def test_a_size_that_the_weights_do_not_have_is_refused_before_anything_of_it_is_made(tmp_path, values, said):
    assert re.search(said, said_of(with_config(tmp_path, **values), "folder"))


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "is corrupt: it is nested too deeply"),
        ('{"format": ' + DEEP + "}", "is corrupt: it is nested too deeply"),
        ("[1]", "to hold a JSON object, but got list"),
        ('{"format": ' + "9" * 5000 + "}", "is corrupt: "),
        ("\x00", "is corrupt: "),
    ],
)
def test_a_configuration_that_is_no_plain_json_is_one_line(tmp_path, text, said):
    folder = probe().save_pretrained(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(ProbeError, match=said) as raised:
        Probe.from_pretrained(folder)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"head": {"width": True}}, "`width` to be a whole number from 1 to .*, but got True"),
        ({"head": {"width": 1.5}}, "`width` to be a whole number from 1 to .*, but got 1.5"),
        ({"head": {"width": [True]}}, "`width` to be a whole number from 1 to .*, but got True"),
        ({"head": {"width": []}}, r"`width` to be one number or 1 of them, but got \[\]"),
        ({"head": {"depth": "1"}}, "`depth` to be a whole number .*, but got '1'"),
        ({"head": {"dropout": "0"}}, "`dropout` to be a number, .*, but got '0'"),
        ({"head": {"dropout": True}}, "`dropout` to be a number, .*, but got True"),
        ({"head": {"activation": []}}, r"`activation` to be one of relu, .*, but got \[\]"),
        ({"head": {"surprise": 1}}, "surprise"),
        ({"calibration": {}}, "`calibration` to be a text, but got {}"),
        ({"metrics": 5}, "`metrics` to be numbers by their names, but got 5"),
        ({"metrics": {"auroc": "high"}}, "`metrics` to be numbers by their names"),
        ({"trained_with": [1]}, r"`trained_with` to be numbers by their names, but got \[1\]"),
    ],
)
def test_a_setting_of_another_kind_is_named(tmp_path, values, said):
    with pytest.raises(ProbeError, match=f"config.json .*{said}"):
        Probe.from_pretrained(with_config(tmp_path, **values))


def test_a_head_that_is_no_object_is_named(tmp_path):
    folder = with_config(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"head": 7}))
    with pytest.raises(ProbeError, match="config.json to be a whole probe configuration"):
        Probe.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float16, torch.float8_e4m3fn, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused(tmp_path, dtype):
    folder = probe().save_pretrained(tmp_path)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ProbeError, match="all tensors in .* to be float32, or all float64, but got"):
        Probe.from_pretrained(folder)


def test_files_of_a_checkpoint_that_are_none_are_named(tmp_path):
    folder = probe().save_pretrained(tmp_path)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")  # reading it would wait for ever
    with pytest.raises(ProbeError, match="there is no model.safetensors"):
        Probe.from_pretrained(folder)


ONES = {"weight": torch.ones(1, 8), "bias": torch.zeros(1)}


def repeated(numbers: int) -> torch.Tensor:
    """One number that looks like many: a file of 2 kB."""
    return torch.ones(1).expand(1, numbers)


def test_a_tensor_that_repeats_one_number_is_refused_before_it_is_copied(tmp_path):
    torch.save(ONES | {"weight": repeated(2 * 10**9)}, tmp_path / "head.pt")
    assert (tmp_path / "head.pt").stat().st_size < 3000
    assert "Expected tensor 'weight' in " in said_of(tmp_path / "head.pt", "file")


def test_many_views_of_the_same_numbers_are_refused_before_they_are_copied(tmp_path):
    numbers = torch.zeros(1000, 1000)
    torch.save({f"{place}.weight": numbers.view(1000, 1000) for place in range(1500)}, tmp_path / "head.pt")
    assert "views of the same numbers" in said_of(tmp_path / "head.pt", "file")


@pytest.mark.parametrize("suffix", ["pt", "skops"])
def test_a_file_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path, suffix):
    path = tmp_path / f"head.{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("head/data/0", "w") as file:
        for _ in range(400):
            file.write(bytes(2**20))
    assert "to unpack to at most 268,435,456 bytes, but it claims 419,430,400" in said_of(path, "file")


SPARSE = torch.sparse_coo_tensor([[0], [0]], [1.0], (1, 8))
ODD: dict[str, Any] = {
    "a list": [1],
    "a number": 5,
    "names that are none": {0: torch.ones(1, 8)},
    "no tensors": {"weight": "text"},
    "sparse": ONES | {"weight": SPARSE},
    "sparse of 1e12": {"weight": torch.sparse_coo_tensor(torch.zeros(2, 0), [], (1, 10**12))},
    "meta": ONES | {"weight": torch.empty(1, 10**12, device="meta")},
    "complex": ONES | {"weight": torch.ones(1, 8, dtype=torch.complex64)},
    "quantized": {"weight": torch.quantize_per_tensor(torch.ones(1, 8), 0.1, 0, torch.qint8)},
    "nested": {"weight": torch.nested.nested_tensor([torch.ones(3), torch.ones(4)], layout=torch.jagged)},
    "empty": {"weight": torch.ones(1, 0), "bias": torch.zeros(1)},
    "flat": {"weight": torch.ones(8)},
    "deep": {"weight": torch.ones(1, 1, 8)},
    "no numbers": ONES | {"weight": torch.full((1, 8), float("nan"))},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ODD)
def test_a_file_of_torch_that_holds_something_odd_is_one_line(tmp_path, what):
    torch.save(ODD[what], tmp_path / "head.pt")
    with pytest.raises(ProbeError, match="^Expected ") as raised:
        probe_from_file(tmp_path / "head.pt", **ORIGIN)
    assert str(raised.value).isprintable()


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_torch_with_any_byte_changed_is_a_head_or_one_line(tmp_path):
    rng = np.random.default_rng(0)
    for zipped in (True, False):
        torch.save(ONES, path := tmp_path / "head.pt", _use_new_zipfile_serialization=zipped)
        whole = path.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            data[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(data)
            with contextlib.suppress(ProbeError):
                probe_from_file(path, **ORIGIN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEEP, "nested too deeply"),
        ("[]", "mapping.json to be a JSON object"),
        ('{"source": "x"}', "to be of the probe, but got source"),
        ('{"weights": 5}', "`weights`, `mean` and `scale` to be names of tensors"),
        ('{"weights": [["weight"]]}', "`weights`, `mean` and `scale` to be names of tensors"),
        ('{"mean": {}}', "`weights`, `mean` and `scale` to be names of tensors"),
        ('{"activation": []}', "`activation` to be one of"),
        ('{"metrics": 3}', "`metrics` to be numbers"),
        ('{"layer": 1e300}', "`layer` to be a whole number"),
    ],
)
def test_a_mapping_that_says_something_odd_is_one_line(tmp_path, text, said):
    torch.save(ONES, tmp_path / "head.pt")
    (tmp_path / "mapping.json").write_text(text)
    with pytest.raises(ProbeError, match=said):
        probe_from_file(
            tmp_path / "head.pt", tmp_path / "mapping.json", base_model="b", **({} if "layer" in text else {"layer": 1})
        )


def rewritten(path: Path, **replaced: bytes) -> Path:
    """A skops file with entries of these endings replaced."""
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in held.items():
            archive.writestr(name, replaced.get(name.rpartition(".")[2], data))
    return path


def npy(shape: tuple[int, ...]) -> bytes:
    """The head of a file that claims an array of this shape, and nothing after it."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "replaced",
    [
        {"npy": npy((10**12,))},
        {"npy": npy((1, 10**10))},
        {"npy": b"no array"},
        {"json": DEEP.encode()},
        {"json": b"{}"},
        {"json": b"[1]"},
        {"json": b'{"protocol": 2, "content": 5}'},
        {"json": b'{"__class__": "Ridge", "__module__": "sklearn", "__loader__": "ObjectNode"}'},
    ],
)
def test_a_file_of_skops_that_claims_something_odd_is_one_line(tmp_path, replaced):
    skops.dump(LogisticRegression(max_iter=2000).fit(*data()), tmp_path / "head.skops")
    said = said_of(rewritten(tmp_path / "head.skops", **replaced), "file")
    assert said.startswith(f"Expected {tmp_path / 'head.skops'} to be an estimator stored by skops, but ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coef_", np.ones(3)),
        ("coef_", "text"),
        ("coef_", {"a": 1}),
        ("coef_", np.zeros((1, 0))),
        ("intercept_", np.ones(7)),
        ("classes_", 5),
        ("calibrated_classifiers_", 3),
        ("calibrated_classifiers_", ["text"]),
    ],
)
def test_an_estimator_with_something_odd_in_a_fitted_part_is_one_line(name, value):
    estimator = LogisticRegression(max_iter=2000).fit(*data())
    setattr(estimator, name, value)
    with pytest.raises(ProbeError, match="^Expected "):
        probe_from_sklearn(estimator, **ORIGIN)
