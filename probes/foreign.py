"""Probes trained elsewhere: plain state dicts and scikit-learn estimators become a `Probe`.

The numbers of the original are kept, in its own precision. Nothing is ever unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError  # what torch raises for a file that it refuses to unpickle
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from probes.errors import ProbeError
from probes.heads import HeadConfig
from probes.probe import Probe, ProbeConfig, load_strictly
from probes.tensors import read_json

_PICKLES = (".pkl", ".pickle", ".joblib")
_CONVERT = (
    "which can run any code; where you trust it, load it and write skops.io.dump(estimator, 'probe.skops') or "
    "safetensors.torch.save_file(module.state_dict(), 'probe.safetensors')"
)
# Parts of the estimators below that skops does not know by itself; all are scikit-learn's and hold numbers alone.
_TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
)
# Torch packs nothing, and numbers do not pack well: a file that unpacks to more than this is no head.
_MOST_UNPACKED, _SMALL_BYTES = 4, 256 * 2**20
_ACTIVATION_OF_SKLEARN = {"relu": "relu", "tanh": "tanh", "logistic": "sigmoid", "identity": "identity"}


def probe_from_file(path: str | Path, mapping: str | Path | None = None, **origin: Any) -> Probe:
    """A probe from a file of another project.

    Args:
        path: ``.safetensors``, ``.pt`` or ``.pth`` (a plain state dict), ``.ckpt`` (a Lightning module's checkpoint, of
            which the state dict is read), or ``.skops`` (a scikit-learn estimator).
        mapping: JSON file with the arguments below, if they are not given here.
        origin: Fields of `ProbeConfig`, ``layer`` and ``base_model`` at least; for a state dict also those of
            `probe_from_tensors`.

    Raises:
        ProbeError: If the file is a pickle, holds more than tensors, or does not make a head.
    """
    path = Path(path)
    if not path.is_file():
        raise ProbeError(f"Expected a file of a trained head, but there is no {path}")
    if mapping is not None:
        try:
            origin = {**read_json(Path(mapping)), **origin}
        except (OSError, ValueError, TypeError) as error:
            raise ProbeError(f"Expected {mapping} to be a JSON object of probe settings, but {error}") from error
    if own := sorted({"estimator", "tensors", "source"} & set(origin)):
        raise ProbeError(f"Expected settings of {path} to be of the probe, but got {', '.join(own)}")
    if path.suffix in _PICKLES:
        raise ProbeError(f"Expected a file that holds data alone, but {path} is a pickle, {_CONVERT}")
    _check_archive(path)
    if path.suffix == ".skops":
        return probe_from_sklearn(_read_skops(path), **origin)
    return probe_from_tensors(_read_tensors(path), source=str(path), **origin)


def _check_archive(path: Path) -> None:
    """Refuses a zip file, as torch and skops write them, that would take far more memory than it takes disk."""
    try:
        if not is_zipfile(path):
            return
        with ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ProbeError(f"Expected {path} to be a whole zip file, but {error}") from error
    allowed = max(_SMALL_BYTES, _MOST_UNPACKED * path.stat().st_size)
    if unpacked > allowed:
        raise ProbeError(f"Expected {path} to unpack to at most {allowed:,} bytes, but it claims {unpacked:,}")


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    """A plain state dict, each of whose tensors holds as many numbers as it has places."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol, before the refusal of its contents
            tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # torch's reader meets what it was not made for in many ways
        # Torch's own words here advise to unpickle the file all the same.
        if isinstance(error, UnpicklingError) or "weights_only" in str(error):
            raise ProbeError(
                f"Expected {path} to hold a plain state dict of tensors, but it does not; if it is a pickle, that is "
                f"one {_CONVERT}"
            ) from None
        raise ProbeError(
            f"Expected {path} to hold a plain state dict of tensors, but it cannot be read: {_first_line(error)}"
        ) from error
    if path.suffix == ".ckpt":
        if not isinstance(tensors, Mapping) or "state_dict" not in tensors:
            raise ProbeError(f"Expected {path} to be a Lightning checkpoint, with a `state_dict`, but it has none")
        tensors = tensors["state_dict"]
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ProbeError(f"Expected {path} to hold a plain state dict of tensors, but it holds something else")
    for name, tensor in tensors.items():
        plain = (
            tensor.layout == torch.strided
            and tensor.device.type == "cpu"
            and not (tensor.is_quantized or tensor.is_complex())
        )
        # A tensor of a few numbers, seen again and again through strides of 0, would be copied to its whole size.
        if not plain or tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise ProbeError(f"Expected tensor {name!r} in {path} to hold as many numbers as it has places")
    if sum(tensor.numel() * tensor.itemsize for tensor in tensors.values()) > max(_SMALL_BYTES, path.stat().st_size):
        raise ProbeError(f"Expected tensors of their own in {path}, but several are views of the same numbers")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def probe_from_tensors(
    tensors: Mapping[str, Tensor],
    *,
    weights: Sequence[str] | None = None,
    mean: str | None = None,
    scale: str | None = None,
    activation: str = "relu",
    prefix: str = "",
    source: str = "the state dict",
    **origin: Any,
) -> Probe:
    """A probe from the linear layers of a state dict.

    Args:
        tensors: Weights ``[out, in]``, named ``<layer>.weight``, each with ``<layer>.bias`` where it has one. The last
            has one output (the logit) or two (wrong, right).
        weights: Names of the weights from states to logit; by default all of them, in order.
        mean: Name of the tensor that is taken from the states first, ``[hidden]``, where there is one.
        scale: Name of the tensor that they are then divided by, ``[hidden]``, where there is one.
        activation: Between the layers.
        prefix: How the names of the head's tensors begin, such as ``head.``. The others are left out, and the names
            above are without it.
        source: Names the tensors in errors.
        origin: Fields of `ProbeConfig`.

    Raises:
        ProbeError: If a tensor is missing, left over, or does not fit the one before it.
    """
    if not isinstance(prefix, str) or (prefix and not any(name.startswith(prefix) for name in tensors)):
        raise ProbeError(
            f"Expected `prefix` to begin names of tensors in {source}, which holds {', '.join(tensors)}, but got "
            f"{prefix!r}"
        )
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    given = [name for name in (mean, scale) if name is not None] + list(
        weights if isinstance(weights, list | tuple) else []
    )
    if not isinstance(weights, list | tuple | None) or not all(isinstance(name, str) for name in given):
        raise ProbeError(f"Expected `weights`, `mean` and `scale` to be names of tensors in {source}, but they are not")
    names = list(weights or (name for name in tensors if name.endswith("weight") and tensors[name].ndim == 2))
    for name in (*names, *(n for n in (mean, scale) if n)):
        if name not in tensors:
            raise ProbeError(f"Expected tensor {name!r} in {source}, but it holds {', '.join(tensors)}")
    biases = [name.removesuffix("weight") + "bias" for name in names]
    if unused := set(tensors) - {*names, *biases, mean, scale}:
        raise ProbeError(
            f"Expected every tensor in {source} to be of the head, but nothing uses {', '.join(sorted(unused))}; "
            f"`weights`, `mean`, `scale` and `prefix` say which are"
        )
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, bias in zip(names, biases, strict=True):
        weight = tensors[name]
        offset = tensors[bias] if bias in tensors else torch.zeros(weight.shape[0], dtype=weight.dtype)
        if weight.ndim != 2 or offset.shape != weight.shape[:1]:
            raise ProbeError(
                f"Expected {name!r} in {source} to be [out, in] and {bias!r} [out], but got {tuple(weight.shape)} and "
                f"{tuple(offset.shape)}"
            )
        if pairs and pairs[-1][0].shape[0] != weight.shape[1]:
            raise ProbeError(
                f"Expected {name!r} in {source} to read the {pairs[-1][0].shape[0]} outputs before it, but it reads "
                f"{weight.shape[1]}"
            )
        pairs.append((weight, offset))
    if not pairs or pairs[-1][0].shape[0] > 2:
        raise ProbeError(
            f"Expected the last weight in {source} to have one output or two (wrong, right), but it has not"
        )
    if pairs[-1][0].shape[0] == 2:  # softmax of two logits is the sigmoid of their difference
        weight, offset = pairs[-1]
        pairs[-1] = (weight[1:] - weight[:1], offset[1:] - offset[:1])
    standardisation = (tensors[mean] if mean else None, tensors[scale] if scale else None)
    return _build([_Member(pairs, *standardisation)], activation, source, origin)


class _Member:
    """One head in the making: linear layers, standardisation, calibration."""

    def __init__(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        calibration: str = "none",
        calibrator: Mapping[str, Tensor] | None = None,
        calibrates: str = "logit",
    ) -> None:
        hidden = pairs[0][0].shape[1]
        self.pairs, self.calibration, self.calibrates = pairs, calibration, calibrates
        self.calibrator = calibrator or {}
        self.mean = torch.zeros(hidden) if mean is None else mean
        self.scale = torch.ones(hidden) if scale is None else scale

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        named = {"mean": self.mean, "scale": self.scale}
        for place, (weight, bias) in enumerate(self.pairs):
            named |= {f"head.{3 * place}.weight": weight, f"head.{3 * place}.bias": bias}
        named |= {f"calibrator.{name}": tensor for name, tensor in self.calibrator.items()}
        return {prefix + name: tensor for name, tensor in named.items()}


def _build(members: Sequence[_Member], activation: str, source: str, origin: Mapping[str, Any]) -> Probe:
    first = members[0]
    widths = tuple(weight.shape[0] for weight, _ in first.pairs[:-1])
    if missing := {"layer", "base_model"} - set(origin):
        raise ProbeError(
            f"Expected layer and base_model to be told of {source}, but {', '.join(sorted(missing))} missing"
        )
    try:
        # Unlike our own heads, one that does not say the dtype of its states may have been trained on any.
        config = ProbeConfig(hidden_size=first.pairs[0][0].shape[1], **{"dtype": "", **origin})
    except TypeError as error:
        raise ProbeError(f"Expected settings of {source} to be fields of ProbeConfig, but {error}") from error
    head = HeadConfig(width=widths, depth=len(widths), dropout=0.0, activation=activation)
    config = replace(config, head=head, calibration=first.calibration, calibrates=first.calibrates)
    config = replace(config, members=len(members))
    tensors = first.tensors("")
    for place, member in enumerate(members[1:]):
        tensors |= member.tensors(f"others.{place}.")
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    precise = {name: tensor.to(torch.float64 if double else torch.float32) for name, tensor in tensors.items()}
    return load_strictly(config, precise, Path(source))


def _read_skops(path: Path) -> Any:
    try:
        from skops.io import load
        from skops.io.exceptions import UntrustedTypesFoundException
    except ImportError as error:
        raise ProbeError(f"Expected the package skops to read {path}, but {error}") from error
    try:
        return load(path, trusted=list(_TRUSTED))
    except UntrustedTypesFoundException as error:
        raise ProbeError(f"Expected {path} to hold scikit-learn's own types alone, but {error}") from error
    except Exception as error:  # what skops makes of a schema that it did not write has no end
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _first_line(error)
        raise ProbeError(f"Expected {path} to be an estimator stored by skops, but {reason}") from error


def probe_from_sklearn(estimator: Any, **origin: Any) -> Probe:
    """A probe from a fitted binary scikit-learn classifier, with the numbers of its `predict_proba`.

    What scikit-learn computes in float32, because it was fitted on float32 states, is computed in float64 here; a steep
    calibration magnifies the rounding that was there.

    Args:
        estimator: LogisticRegression, MLPClassifier, a Pipeline of StandardScaler and one of them, or a
            CalibratedClassifierCV (sigmoid or isotonic) of any of these. Its second class means "right".
        origin: Fields of `ProbeConfig`, ``layer`` and ``base_model`` at least.

    Raises:
        ProbeError: If it is of another kind, not fitted, has other than two classes, or is calibrated by other methods.
    """
    kind = type(estimator).__name__
    try:
        folds = getattr(estimator, "calibrated_classifiers_", [])
        for fitted in (estimator, *(one.estimator for one in folds)):
            if len(getattr(fitted, "classes_", ())) != 2:
                raise ProbeError(f"Expected a fitted classifier of two classes, but got {type(fitted).__name__}")
        made = [_calibrated(one) for one in folds] or [_head_of(estimator)]
    except ProbeError:
        raise
    except AttributeError as error:  # what fitting gives an estimator is not there
        raise ProbeError(f"Expected every part of {kind} to be fitted, but {error}") from error
    except (
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        RuntimeError,
    ) as error:  # it is there, and not as fitting leaves it
        raise ProbeError(f"Expected {kind} as scikit-learn fits it, but {_first_line(error)}") from error
    activations = {activation for _, activation in made}
    if (
        len({(m.calibration, m.calibrates, *(w.shape for w, _ in m.pairs)) for m, _ in made}) > 1
        or len(activations) > 1
    ):
        raise ProbeError(f"Expected heads of one shape in {kind}, but they differ")
    return _build([member for member, _ in made], activations.pop(), kind, origin)


def _calibrated(one: Any) -> tuple[_Member, str]:
    member, activation = _head_of(one.estimator)
    (calibrator,) = one.calibrators
    kind = type(calibrator).__name__
    # What scikit-learn calibrates: the decision, and of a classifier that has none (an MLP) the second class's chance.
    calibrates = "logit" if hasattr(one.estimator, "decision_function") else "probability"
    if kind == "_SigmoidCalibration":
        slope, bias = -float(calibrator.a_), -float(calibrator.b_)
        pairs = member.pairs
        if slope < 0:  # a head worse than chance: it is turned round, so that calibrators go on increasing
            pairs = [*pairs[:-1], (-pairs[-1][0], -pairs[-1][1])]
            bias += slope if calibrates == "probability" else 0.0
        fitted = {"log_slope": _tensor(np.log(max(abs(slope), np.finfo(float).tiny))), "bias": _tensor(bias)}
        return _Member(pairs, member.mean, member.scale, "platt", fitted, calibrates), activation
    if kind == "IsotonicRegression" and calibrator.increasing_:
        fitted = {"knots": _tensor(calibrator.X_thresholds_), "values": _tensor(calibrator.y_thresholds_)}
        return _Member(member.pairs, member.mean, member.scale, "isotonic", fitted, calibrates), activation
    raise ProbeError(f"Expected sigmoid or increasing isotonic calibration, but got {kind}")


def _head_of(estimator: Any) -> tuple[_Member, str]:
    """The estimator's linear layers behind its scaler, and the activation between them."""
    kind, mean, scale = type(estimator).__name__, None, None
    while kind == "FrozenEstimator":
        estimator = estimator.estimator
        kind = type(estimator).__name__
    if kind == "Pipeline":
        *before, (_, estimator) = estimator.steps
        kinds = [type(step).__name__ for _, step in before if step != "passthrough"]
        if kinds not in ([], ["StandardScaler"]):
            raise ProbeError(
                f"Expected a Pipeline of StandardScaler and a classifier, but got {', '.join(kinds)} before it"
            )
        if kinds:
            scaler = next(step for _, step in before if step != "passthrough")
            mean = None if scaler.mean_ is None or not scaler.with_mean else _tensor(scaler.mean_)
            scale = None if scaler.scale_ is None else _tensor(scaler.scale_)
        kind = type(estimator).__name__
    if kind in ("LogisticRegression", "LogisticRegressionCV"):
        pairs = [(_tensor(estimator.coef_), _tensor(estimator.intercept_).reshape(1))]
        activation = "identity"
    elif kind == "MLPClassifier":
        pairs = [
            (_tensor(w).T.contiguous(), _tensor(b))
            for w, b in zip(estimator.coefs_, estimator.intercepts_, strict=True)
        ]
        activation = _ACTIVATION_OF_SKLEARN[estimator.activation]
    else:
        raise ProbeError(
            f"Expected LogisticRegression, MLPClassifier, a Pipeline with StandardScaler or CalibratedClassifierCV, "
            f"but got {kind}"
        )
    return _Member(pairs, mean, scale), activation


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))
