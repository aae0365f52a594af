"""The P(IK) head others load: raw hidden states in, calibrated P(IK) out.

A checkpoint is a folder with `config.json`, `model.safetensors`, `README.md` and its picture. Everything needed
to use the probe on raw hidden states is in it; nothing is ever unpickled. Training is not here (`probes.training`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, ModelHubMixin, snapshot_download
from huggingface_hub.utils import httpx
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from probes.calibration import Calibrator, build_calibrator
from probes.errors import ProbeError
from probes.files import write_atomically
from probes.heads import HeadConfig, build_head
from probes.hub import locate, push_refusal, refusal

FORMAT = 1
WEIGHTS, CONFIG, CARD, PICTURE = _FILES = ["model.safetensors", "config.json", "README.md", "reliability.png"]
_ASKED_WITH = ("token", "cache_dir", "endpoint")


@dataclass(frozen=True)
class ProbeConfig:
    """What a probe is and what it was trained on.

    Attributes:
        hidden_size: Width of the states it reads.
        layer: Layer it reads (0 = embeddings, ℓ = raw output of block ℓ).
        base_model: Name of the model whose states it reads.
        base_revision: Commit on the Hub, or hash of the local weights; empty where it is not known, as the dtype and
            the hashes below may be.
        num_layers: Decoder blocks of the base model.
        head: Shape of the head.
        calibration: Kind of calibrator.
        calibrates: What it reads: the head's ``logit``, or its ``probability``, as scikit-learn's do of a classifier
            without a decision_function.
        threshold: P(IK) below this is taken for "does not know", in the metrics and by default in a cascade.
        position: The token that is read.
        dtype: Of the states it was trained on.
        template_hash: Hash of the prompt's wording.
        task: Task it was trained on.
        task_revision: Hash of that task's questions.
        label: What 1 means.
        split_fingerprint: Hash of the question ids it was trained, calibrated and tested on.
        members: Heads whose P(IK) is averaged; ours have one, ensembles of other libraries several.
        metrics: Test metrics, for the reader.
        trained_with: What tells the head from those it was trained beside, for the reader: its ``seed``,
            ``learning_rate``, ``weight_decay`` and ``val_loss``.

    Raises:
        ProbeError: If a number is none or out of its range, or a text is none.
    """

    hidden_size: int
    layer: int
    base_model: str
    base_revision: str = ""
    num_layers: int = 0
    head: HeadConfig = field(default_factory=HeadConfig)
    calibration: str = "none"
    calibrates: str = "logit"
    threshold: float = 0.5
    position: str = "last_prompt_token"
    dtype: str = "float32"
    template_hash: str = ""
    task: str = ""
    task_revision: str = ""
    label: str = "the base model's greedy answer is correct"
    split_fingerprint: str = ""
    members: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    trained_with: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in {"hidden_size": 1, "layer": 0, "num_layers": 0, "members": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ProbeError(f"Expected `{name}` to be a whole number, {least} at least, but got {value!r}")
            object.__setattr__(self, name, int(value))  # numpy's are none to JSON
        if not isinstance(self.threshold, Real) or isinstance(self.threshold, bool) or not 0 <= self.threshold <= 1:
            raise ProbeError(f"Expected `threshold` to be a number in [0, 1], but got {self.threshold!r}")
        object.__setattr__(self, "threshold", float(self.threshold))
        for name in (f.name for f in fields(self) if f.type == "str"):
            if not isinstance(value := getattr(self, name), str):
                raise ProbeError(f"Expected `{name}` to be a text, but got {value!r}")
        if self.calibrates not in ("logit", "probability"):
            raise ProbeError(f"Expected `calibrates` to be logit or probability, but got {self.calibrates!r}")

    @property
    def told_apart(self) -> str:
        """``trained_with`` in words."""
        said = {name: value if isinstance(value, int) else f"{value:.4g}" for name, value in self.trained_with.items()}
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items())

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self) | {"format": FORMAT, "metrics": dict(self.metrics), "trained_with": dict(self.trained_with)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str) -> ProbeConfig:
        """The inverse of `to_json`; ``source`` names the file in errors."""
        if not isinstance(values, dict):
            raise ProbeError(f"Expected {source} to hold a JSON object, but got {type(values).__name__}")
        values = dict(values)
        if (version := values.pop("format", None)) != FORMAT:
            raise ProbeError(f"Expected {source} to be of format {FORMAT}, but got {version!r}; update this library?")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ProbeError(f"Expected {source} to hold only {sorted(known)}, but got also {unknown}")
        try:
            return cls(**(values | {"head": HeadConfig(**values["head"])}))
        except (TypeError, KeyError) as error:
            raise ProbeError(f"Expected {source} to be a whole probe configuration, but {error}") from error
        except ProbeError as error:
            raise ProbeError(f"Probe configuration {source} is corrupt: {error}") from error


class Probe(nn.Module, ModelHubMixin):
    """A P(IK) probe: standardises a hidden state, runs the head, calibrates.

    Example:
        >>> probe = Probe.from_pretrained("runs/probes/mini-llama-small--mini-mmlu--layer-2/probe")
        >>> p_ik = probe(states)  # [..., hidden] -> [...]

    `push_to_hub` is that of huggingface_hub's mixin; loading is ours, because the mixin's leaves a tensor that is
    missing as it was drawn.

    Args:
        config: See `ProbeConfig`.

    Attributes:
        mean, scale: Feature standardisation, ``[hidden]``, float32 (float64 where the checkpoint is).
        picture: Reliability diagram of the model card, PNG, or ``None``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        self.picture: bytes | None = None
        self.register_buffer("mean", torch.zeros(config.hidden_size))
        self.register_buffer("scale", torch.ones(config.hidden_size))
        self.head = build_head(config.head, config.hidden_size)
        self.calibrator: Calibrator = build_calibrator(config.calibration)
        self.others = nn.ModuleList(Probe(replace(config, members=1)) for _ in range(config.members - 1))
        self._hub_id: str | None = None

    def raw_logits(self, states: Tensor) -> Tensor:
        """Uncalibrated logits, ``[...]`` from states ``[..., hidden]``; of the first member alone."""
        if states.shape[-1:] != (self.config.hidden_size,):
            raise ProbeError(f"Expected `states` to be [..., {self.config.hidden_size}], but got {tuple(states.shape)}")
        standardised = (states.to(self.mean.dtype) - self.mean) / self.scale
        logits: Tensor = self.head(standardised).squeeze(-1)
        return logits

    def forward(self, states: Tensor) -> Tensor:
        """Calibrated P(IK): ``[...]`` in [0, 1], of the probe's dtype, from raw states ``[..., hidden]`` of any."""
        read = self.raw_logits(states)
        if self.config.calibrates == "probability":
            read = torch.sigmoid(read)
        p_ik = torch.sigmoid(self.calibrator(read))
        if len(self.others):
            p_ik = torch.stack([p_ik, *(other(states) for other in self.others)]).mean(0)
        return p_ik

    @torch.no_grad()
    def predict(self, states: np.ndarray | Tensor) -> np.ndarray:
        """Calibrated P(IK) without gradients, as an array ``[...]``, wherever states and probe lie.

        Raises:
            ProbeError: If the width is wrong, a state is NaN or infinite, or so large that P(IK) is no number.
        """
        # Torch knows no negative strides, as of an array that is read backwards.
        tensor = torch.as_tensor(np.ascontiguousarray(states) if isinstance(states, np.ndarray) else states)
        if not bool(torch.isfinite(tensor).all()):
            raise ProbeError("Expected finite hidden states, but `states` holds NaN or infinity")
        result: np.ndarray = self.eval()(tensor.to(self.mean.device)).cpu().numpy()
        if np.isnan(result).any():
            raise ProbeError(
                f"Expected hidden states of a size like those that the probe was trained on, but `states` goes up to "
                f"{float(tensor.abs().max()):g}, of which P(IK) is NaN"
            )
        return result

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        config: Any = None,
        model_card_kwargs: Any = None,
        **push: Any,
    ) -> Path:
        """Writes the checkpoint folder: weights, model card, picture, and the configuration last.

        Args:
            save_directory: The folder; it is made.
            push_to_hub: Whether to push the probe to the Hub too.
            config: Not used, as the next one: the configuration and the card are the probe's own.
            model_card_kwargs: Not used.
            push: ``repo_id``, by default the folder's name, and the other options of `push_to_hub`.

        Raises:
            ProbeError: If there are options of a push that is not asked for, or it fails; the folder is there then.
        """
        if push and not push_to_hub:
            raise ProbeError(f"Expected {', '.join(sorted(push))} with push_to_hub=True alone, but it is not set")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)  # until all of it is there, there is no checkpoint
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / WEIGHTS, save(tensors))
        if self.picture is not None:
            write_atomically(folder / PICTURE, self.picture)
        write_atomically(folder / CARD, model_card(self.config, self._hub_id, self.picture is not None).encode())
        text = json.dumps(self.config.to_json(), indent=2, sort_keys=True) + "\n"
        write_atomically(folder / CONFIG, text.encode())
        if push_to_hub:
            self.push_to_hub(push.pop("repo_id", None) or folder.name, **push)
        return folder

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the checkpoint; its card's code sample loads it from there.

        Args:
            repo_id: ``owner/name``, or a name of your own.
            options: Those of the mixin, such as ``private``, ``token``, ``branch`` or ``commit_message``.

        Returns:
            Where the commit is.

        Raises:
            ProbeError: If the Hub is out of reach or does not take it.
        """
        former = self._hub_id
        try:
            api = HfApi(token=options.get("token"))
            self._hub_id = api.create_repo(repo_id, private=options.get("private"), exist_ok=True).repo_id  # in full
            return str(super().push_to_hub(self._hub_id, **options))
        except BaseException as error:
            self._hub_id = former
            if isinstance(error, (httpx.HTTPError, OSError, ValueError)):
                raise ProbeError(push_refusal(error, repo_id)) from error
            raise

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder_or_id: str | Path, revision: str | None = None, **download: Any
    ) -> Probe:
        """Loads a probe from a folder or from the Hugging Face Hub.

        Args:
            folder_or_id: A checkpoint folder, or a Hub id such as ``someone/some-probe``.
            revision: Branch, tag or commit on the Hub.
            download: Options of `huggingface_hub.snapshot_download`, such as ``token`` or ``cache_dir``.

        Raises:
            ProbeError: If a file is missing or of a newer format, or a tensor is missing, unexpected or of
                another shape.
        """
        folder = _checkpoint_folder(str(folder_or_id), revision, download)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).exists():
                raise ProbeError(f"Expected a probe checkpoint in {folder}, but there is no {name}")
        try:
            values = json.loads((folder / CONFIG).read_text())
            tensors = load_file(folder / WEIGHTS)
        except (ValueError, SafetensorError) as error:
            raise ProbeError(f"Probe checkpoint {folder} is corrupt: {error}") from error
        probe = cls(ProbeConfig.from_json(values, str(folder / CONFIG)))
        load_strictly(probe, tensors, folder / WEIGHTS)
        if (folder / PICTURE).exists():
            probe.picture = (folder / PICTURE).read_bytes()
        return probe.eval()


def _checkpoint_folder(name: str, revision: str | None, download: Mapping[str, Any]) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ProbeError(f"Expected a probe checkpoint folder or a Hub id, but there is no folder {name!r}")
    try:
        if not download.get("local_files_only"):
            found = locate(name, revision, CONFIG, **{k: v for k, v in download.items() if k in _ASKED_WITH})
            revision, download = found.commit, {**download, "local_files_only": found.local_files_only}
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES, **download))
    except ProbeError:
        raise
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise ProbeError(refusal(error, name, revision, endpoint=download.get("endpoint"))) from error


def load_strictly(probe: Probe, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Loads tensors into a probe; ``path`` names them in errors.

    Raises:
        ProbeError: If one is missing, unexpected, of another shape, of mixed precision, or not finite, or a state
            would be divided by zero or less.
    """
    for name, module in probe.named_modules():
        if isinstance(module, Calibrator):
            own = {n.removeprefix(f"{name}."): t for n, t in tensors.items() if n.startswith(f"{name}.")}
            try:
                module.shape_like(own)
            except (ProbeError, KeyError) as error:
                raise ProbeError(f"Probe checkpoint {path} is corrupt: {error}") from error
    expected = probe.state_dict()
    for name in sorted(set(expected) | set(tensors)):
        if name not in tensors:
            raise ProbeError(f"Expected tensor {name!r} in {path}, but it is missing")
        if name not in expected:
            raise ProbeError(f"Expected no tensor {name!r} in {path}, but it is there")
        if expected[name].shape != tensors[name].shape:
            raise ProbeError(
                f"Expected tensor {name!r} in {path} to be {tuple(expected[name].shape)}, "
                f"but got {tuple(tensors[name].shape)}"
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ProbeError(f"Expected tensor {name!r} in {path} to be finite, but it holds NaN or infinity")
        if name.rpartition(".")[2] == "scale" and not bool((tensors[name] > 0).all()):
            raise ProbeError(
                f"Expected tensor {name!r} in {path} to be positive, but it goes down to {float(tensors[name].min()):g}"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if dtypes not in ({torch.float32}, {torch.float64}):
        raise ProbeError(
            f"Expected all tensors in {path} to be float32, or all float64, but got {sorted(map(str, dtypes))}"
        )
    probe.to(dtypes.pop())
    probe.load_state_dict(tensors)


def model_card(config: ProbeConfig, hub_id: str | None = None, picture: bool = False) -> str:
    """The README of a checkpoint: what it reads, what it says, how good it was, how to use it.

    Args:
        config: The probe's.
        hub_id: Where the code sample loads it from; by default the folder that the card lies in.
        picture: Whether a reliability diagram lies beside it.
    """
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in config.metrics.items())
    table = f"\n| test metric | value |\n|---|---|\n{rows}\n" if rows else ""
    diagram = (
        f"\n![Reliability on the test part: P(IK) against the share of right answers]({PICTURE})\n" if picture else ""
    )
    names = ("base_revision", "task", "task_revision", "split_fingerprint", "template_hash")
    known = {name: f"`{text}`" if (text := getattr(config, name)) else "unknown" for name in names}
    depth = f" of {config.num_layers}" if config.num_layers else ""
    # Metadata of the Hub knows only models that are on it.
    base = f"base_model: {config.base_model}\n" if re.fullmatch(r"[\w.-]+/[\w.-]+", config.base_model) else ""
    return f"""---
tags: [p-ik, probe, calibration, uncertainty]
{base}---

# P(IK) probe for {config.base_model}, layer {config.layer}

Reads the hidden state of `{config.base_model}` (revision {known["base_revision"]}) after decoder block
{config.layer}{depth} at the {config.position.replace("_", " ")}, and gives P(IK): the probability
that {config.label}. Trained on {known["task"]} (revision {known["task_revision"]}, split
{known["split_fingerprint"]}, prompt {known["template_hash"]}); calibration: {config.calibration}; threshold
{config.threshold}{f" ({config.told_apart})" if config.trained_with else ""}.
{table}{diagram}
```python
import torch

from probes import Probe

probe = Probe.from_pretrained("{hub_id or "."}")
states = torch.randn(3, {config.hidden_size})  # stand for raw outputs of decoder block {config.layer}
p_ik = probe.predict(states)  # [...]
```
"""
