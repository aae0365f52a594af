"""Heads of other projects give the numbers that they gave there."""

from __future__ import annotations

import gzip
import json
import pickle
import warnings

import joblib
import lightning
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from skops import io as skops
from torch.utils.data import DataLoader, TensorDataset

from probes import Probe, ProbeError, probe_from_file, probe_from_sklearn, probe_from_tensors, save_onnx
from tests.profile import LONG

HIDDEN = 12
ORIGIN = {"layer": 3, "base_model": "someone/base"}


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    states = rng.normal(2, 5, (400, HIDDEN)).astype(np.float32)
    return states, rng.random(400) < 1 / (1 + np.exp(2 - states[:, 0]))


def mlp(**settings):
    return MLPClassifier((9, 4), max_iter=40, random_state=0, **settings)


ESTIMATORS = {
    "logistic": LogisticRegression(max_iter=2000),
    "scaled": make_pipeline(StandardScaler(), LogisticRegression()),
    "not centred": make_pipeline(StandardScaler(with_mean=False), LogisticRegression(fit_intercept=False)),
    "mlp": make_pipeline(StandardScaler(), mlp()),
    "tanh": mlp(activation="tanh"),
    "sigmoid": mlp(activation="logistic"),
    "platt": CalibratedClassifierCV(make_pipeline(StandardScaler(), LogisticRegression()), ensemble=False),
    "platt of five": CalibratedClassifierCV(LogisticRegression(max_iter=2000)),
    "isotonic of three": CalibratedClassifierCV(
        make_pipeline(StandardScaler(), LogisticRegression()), method="isotonic", cv=3
    ),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_gives_the_numbers_of_predict_proba(tmp_path, name, stored):
    states, right = data()
    estimator = ESTIMATORS[name].fit(states, right)
    if stored:
        skops.dump(estimator, tmp_path / "head.skops")
        probe = probe_from_file(tmp_path / "head.skops", **ORIGIN)
    else:
        probe = probe_from_sklearn(estimator, **ORIGIN)
    probe = Probe.from_pretrained(probe.save_pretrained(tmp_path / "probe"))
    fresh = data(1)[0]
    np.testing.assert_allclose(probe.predict(fresh), estimator.predict_proba(fresh)[:, 1], rtol=0, atol=1e-6)
    assert probe.predict(fresh.reshape(20, 20, HIDDEN)).shape == (20, 20)


CALIBRATED = {
    "logistic": LogisticRegression(),
    "scaled logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "mlp": mlp(),
    "scaled mlp": make_pipeline(StandardScaler(), mlp()),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("name", CALIBRATED)
def test_whatever_is_calibrated_gives_its_numbers_stored_saved_and_exported(tmp_path, name, method, ensemble):
    states, right = data()
    estimator = CalibratedClassifierCV(CALIBRATED[name], method=method, cv=3, ensemble=ensemble)
    skops.dump(estimator.fit(states.astype(np.float64), right), tmp_path / "head.skops")
    probe = probe_from_file(tmp_path / "head.skops", **ORIGIN)
    probe = Probe.from_pretrained(probe.save_pretrained(tmp_path / "probe"))
    fresh = data(1)[0].astype(np.float64)
    expected = estimator.predict_proba(fresh)[:, 1]
    np.testing.assert_allclose(probe.predict(fresh), expected, rtol=0, atol=1e-6)
    # Exporting takes seconds: half of them by default, in which every two of the three settings meet.
    if LONG or (list(CALIBRATED).index(name) + (method == "isotonic") + ensemble) % 2 == 0:
        session = onnxruntime.InferenceSession(save_onnx(probe, tmp_path / "probe.onnx"))
        (p_ik,) = session.run(["p_ik"], {"states": fresh})
        np.testing.assert_allclose(p_ik, expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@given(
    seed=st.integers(0, 10**6),
    hidden=st.integers(1, 30),
    rows=st.integers(40, 300),
    scaled=st.booleans(),
    widths=st.lists(st.integers(1, 20), max_size=3),
    activation=st.sampled_from(["relu", "tanh", "logistic", "identity"]),
    method=st.sampled_from(["sigmoid", "isotonic"]),
    folds=st.integers(2, 6),
    ensemble=st.booleans(),
)
def test_a_calibrated_estimator_of_any_shape_gives_its_numbers(
    seed, hidden, rows, scaled, widths, activation, method, folds, ensemble
):
    rng = np.random.default_rng(seed)
    states = rng.normal(rng.normal(size=hidden), rng.exponential(5, hidden), (rows, hidden))
    right = rng.random(rows) < 1 / (1 + np.exp(-states @ rng.normal(size=hidden)))
    assume(folds <= right.sum() <= rows - folds)
    base = LogisticRegression()
    if widths:
        base = MLPClassifier(widths, activation=activation, solver="lbfgs", max_iter=30, random_state=0)
    estimator = CalibratedClassifierCV(
        make_pipeline(StandardScaler(), base) if scaled else base, method=method, cv=folds, ensemble=ensemble
    ).fit(states, right)
    steepest = 0.0
    if method == "isotonic":
        steps = [one.calibrators[0] for one in estimator.calibrated_classifiers_]
        steepest = max(np.max(np.diff(s.y_thresholds_) / np.diff(s.X_thresholds_), initial=0) for s in steps)
    # Where two knots all but touch, the last digit of what is calibrated decides.
    tolerance = 1e-6 + 1e-13 * steepest
    probe = probe_from_sklearn(estimator, **ORIGIN)
    for read in (states, 3 * states):
        np.testing.assert_allclose(probe.predict(read), estimator.predict_proba(read)[:, 1], rtol=0, atol=tolerance)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("inner", [LogisticRegression(), mlp(solver="lbfgs")])
def test_an_estimator_that_was_worse_than_chance_keeps_its_numbers(inner):
    states, right = data()
    states = states.astype(np.float64)
    estimator = CalibratedClassifierCV(FrozenEstimator(inner.fit(states, ~right)), ensemble=False).fit(states, right)
    assert estimator.calibrated_classifiers_[0].calibrators[0].a_ > 0  # the slope is its negative
    probe = probe_from_sklearn(estimator, **ORIGIN)
    np.testing.assert_allclose(probe.predict(states), estimator.predict_proba(states)[:, 1], rtol=0, atol=1e-6)


def test_a_calibrated_estimator_that_was_fitted_before_is_read():
    states, right = data()
    inner = make_pipeline(StandardScaler(), LogisticRegression()).fit(states[:200], right[:200])
    estimator = CalibratedClassifierCV(FrozenEstimator(inner)).fit(states[200:], right[200:])
    probe = probe_from_sklearn(estimator, **ORIGIN)
    np.testing.assert_allclose(probe.predict(states), estimator.predict_proba(states)[:, 1], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (make_pipeline(MinMaxScaler(), LogisticRegression()), "StandardScaler and a classifier, but got MinMaxScaler"),
        (CalibratedClassifierCV(mlp(), method="temperature"), "sigmoid or increasing isotonic"),
        (
            CalibratedClassifierCV(mlp(), cv=[(np.flatnonzero(~data()[1]), np.arange(400))]),
            "two classes, but got MLPClassifier",
        ),
    ],
)
def test_an_estimator_that_is_no_probe_is_named(estimator, message):
    with pytest.raises(ProbeError, match=message):
        probe_from_sklearn(estimator.fit(*data()), **ORIGIN)


def test_three_classes_or_a_missing_layer_are_named():
    states, right = data()
    with pytest.raises(ProbeError, match="two classes"):
        probe_from_sklearn(LogisticRegression(max_iter=50).fit(states, np.arange(400) % 3), **ORIGIN)
    with pytest.raises(ProbeError, match="layer missing"):
        probe_from_sklearn(LogisticRegression(max_iter=2000).fit(states, right), base_model="b")
    with pytest.raises(ProbeError, match="fields of ProbeConfig.*wheel"):
        probe_from_sklearn(LogisticRegression(max_iter=2000).fit(states, right), **ORIGIN, wheel=1)


def head(outputs: int = 1) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(HIDDEN, 7), torch.nn.GELU(), torch.nn.Linear(7, outputs))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_state_dict_with_a_mapping_file_gives_its_numbers(tmp_path, suffix, outputs):
    net, states = head(outputs), torch.from_numpy(data()[0])
    tensors = {**net.state_dict(), "norm.mu": states.mean(0), "norm.sigma": states.std(0)}
    path = tmp_path / f"head{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    mapping = {**ORIGIN, "activation": "gelu", "mean": "norm.mu", "scale": "norm.sigma", "label": "it is right"}
    (tmp_path / "mapping.json").write_text(json.dumps(mapping))
    probe = probe_from_file(path, tmp_path / "mapping.json")
    with torch.no_grad():
        logits = net((states - states.mean(0)) / states.std(0))
        expected = logits.sigmoid()[:, 0] if outputs == 1 else logits.softmax(-1)[:, 1]
    np.testing.assert_allclose(probe.predict(states), expected, rtol=0, atol=1e-6)
    assert (probe.config.layer, probe.config.label) == (3, "it is right")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"extra": torch.zeros(2)}, "nothing uses extra"),
        (lambda t: t | {"2.weight": torch.zeros(1, 8)}, "'2.weight' .* read the 7 outputs before it, but it reads 8"),
        (lambda t: t | {"2.weight": torch.zeros(3, 7), "2.bias": torch.zeros(3)}, "one output or two"),
        (lambda t: t | {"0.bias": torch.zeros(3)}, "'0.bias'"),
        (lambda t: t | {"2.bias": torch.full((1,), float("nan"))}, "finite"),
        (lambda t: {}, "one output or two"),
    ],
)
def test_a_state_dict_that_makes_no_head_is_named(change, message):
    with pytest.raises(ProbeError, match=message):
        probe_from_tensors(change(head().state_dict()), **ORIGIN)


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(ProbeError, match="'fc.weight' in the state dict, but it holds 0.weight"):
        probe_from_tensors(head().state_dict(), weights=["fc.weight"], **ORIGIN)


class PlainModule(lightning.LightningModule):
    """As many write one: the head, a loss with a tensor of its own, settings that are saved."""

    def __init__(self, width: int = 7, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(HIDDEN, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
        self.loss = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))

    def training_step(self, batch, _):
        states, right = batch
        return self.loss(self.net(states)[:, 0], right)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


def test_a_checkpoint_of_a_plain_lightning_module_gives_its_numbers(tmp_path):
    states, right = (torch.from_numpy(part).float() for part in data())
    module = PlainModule()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=[ModelCheckpoint(tmp_path / "kept", save_last=True)],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(states, right), 100))
    path = tmp_path / "kept" / "last.ckpt"
    with pytest.raises(ProbeError, match="nothing uses loss.pos_weight; `weights`, .* and `prefix` say"):
        probe_from_file(path, **ORIGIN)
    with pytest.raises(ProbeError, match="`prefix` to begin names of tensors in .*net.0.weight.*, but got 'head.'"):
        probe_from_file(path, prefix="head.", **ORIGIN)
    probe = probe_from_file(path, prefix="net.", **ORIGIN)
    with torch.no_grad():
        expected = module.net(states).sigmoid()[:, 0]
    np.testing.assert_allclose(probe.predict(states), expected, rtol=0, atol=1e-6)


def test_a_checkpoint_that_holds_more_than_data_is_not_unpickled(tmp_path):
    torch.save({"state_dict": head().state_dict(), "hyper_parameters": {"hook": Trap()}}, tmp_path / "x.ckpt")
    with pytest.raises(ProbeError, match="can run any code"):
        probe_from_file(tmp_path / "x.ckpt", **ORIGIN)
    torch.save(head().state_dict(), tmp_path / "y.ckpt")
    with pytest.raises(ProbeError, match="with a `state_dict`, but it has none"):
        probe_from_file(tmp_path / "y.ckpt", **ORIGIN)


class Trap:
    """Unpickling it would end the test run."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize("name", ["head.pkl", "head.joblib", "head.pickle"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, name):
    (joblib.dump if name.endswith("joblib") else lambda o, p: p.write_bytes(pickle.dumps(o)))(Trap(), tmp_path / name)
    with pytest.raises(ProbeError, match="is a pickle, .*skops.io.dump"):
        probe_from_file(tmp_path / name, **ORIGIN)


def write_pickle(path, how: str) -> None:
    if how == "joblib":
        joblib.dump(Trap(), path)
    elif how == "compressed":
        path.write_bytes(gzip.compress(pickle.dumps(Trap())))
    elif how == "module":
        torch.save(head(), path)
    elif how == "torchscript":
        torch.jit.save(torch.jit.script(head()), path)
    elif how.startswith("protocol"):
        path.write_bytes(pickle.dumps(Trap(), protocol=int(how[-1])))
    else:
        torch.save({"0.weight": Trap()}, path, _use_new_zipfile_serialization=how == "in a zip")


HOWS = ["joblib", "compressed", "module", "protocol 0", "protocol 5", "in a zip", "as torch did", "torchscript"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", ["head.pt", "head.bin", "head.sav", "head.gz", "head"])
@pytest.mark.parametrize("how", HOWS)
def test_a_pickle_by_another_name_is_not_unpickled_and_said_in_our_words(tmp_path, how, name):
    write_pickle(tmp_path / name, how)
    refusal = pytest.raises(ProbeError, match=f"{name} to hold a plain state .* if it is a pickle, .*skops.io.dump")
    with refusal as said, warnings.catch_warnings():
        warnings.simplefilter("error")
        probe_from_file(tmp_path / name, **ORIGIN)
    assert "weights_only" not in str(said.value) and str(said.value).isprintable()


def test_a_file_of_skops_that_names_other_code_is_refused(tmp_path):
    skops.dump(Trap, tmp_path / "head.skops")
    with pytest.raises(ProbeError, match="own types alone"):
        probe_from_file(tmp_path / "head.skops", **ORIGIN)


def test_an_estimator_that_was_fitted_in_part_is_named(tmp_path):
    half = make_pipeline(StandardScaler(), LogisticRegression())
    half[-1].fit(*data())
    skops.dump(half, tmp_path / "head.skops")
    with pytest.raises(ProbeError, match="every part of Pipeline to be fitted, but 'StandardScaler'"):
        probe_from_file(tmp_path / "head.skops", **ORIGIN)


@pytest.mark.parametrize("name", ["none.pt", "text.safetensors", "text.skops"])
def test_a_file_that_is_no_head_is_named(tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("no head")
    with pytest.raises(ProbeError, match=name):
        probe_from_file(tmp_path / name, **ORIGIN)
