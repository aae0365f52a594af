"""The P(IK) head others load: raw hidden states in, calibrated P(IK) out.

A checkpoint is a folder with `config.json`, `model.safetensors`, `README.md` and its picture. Everything needed
to use the probe on raw hidden states is in it; nothing is ever unpickled. Training is not here (`probes.training`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
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
from probes.card import PICTURE, model_card
from probes.config import ProbeConfig
from probes.errors import ProbeError
from probes.files import write_atomically
from probes.heads import build_head
from probes.hub import locate, push_refusal, refusal
from probes.tensors import check_tensors, read_json, shape_calibrators

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
_FILES = [WEIGHTS, CONFIG, CARD, PICTURE]
_ASKED_WITH = ("token", "cache_dir", "endpoint")


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

    def extra_repr(self) -> str:
        """What it reads, for its ``repr``: the layer and the base model."""
        deep = f" of {self.config.num_layers}" if self.config.num_layers else ""
        return f"layer {self.config.layer}{deep} of {self.config.base_model}, hidden size {self.config.hidden_size}"

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
            if not (folder / name).is_file():
                raise ProbeError(f"Expected a probe checkpoint in {folder}, but there is no {name}")
        try:
            values = read_json(folder / CONFIG)
            tensors = load_file(folder / WEIGHTS)
        except (ValueError, SafetensorError, OSError) as error:
            raise ProbeError(f"Probe checkpoint {folder} is corrupt: {error}") from error
        probe = load_strictly(ProbeConfig.from_json(values, str(folder / CONFIG)), tensors, folder / WEIGHTS, cls)
        probe.picture = _read_picture(folder)
        return probe


def _read_picture(folder: Path) -> bytes | None:
    """The reliability diagram, where there is one. It goes wherever the probe is saved or pushed to."""
    path, inside = folder / PICTURE, folder.resolve()
    if not path.is_file():
        return None
    # Files in the Hub's cache are links into the blobs of their repository.
    allowed = [inside, *([inside.parents[1] / "blobs"] if inside.parent.name == "snapshots" else [])]
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise ProbeError(f"Expected {path} to lie in its folder, but it is a link to {path.resolve()}")
    if not (picture := path.read_bytes()).startswith(b"\x89PNG"):
        raise ProbeError(f"Expected {path} to be a PNG, but it is none")
    return picture


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


def load_strictly(config: ProbeConfig, tensors: Mapping[str, Tensor], path: Path, kind: type[Probe] = Probe) -> Probe:
    """The probe of a configuration and its tensors, copied; ``path`` names them in errors.

    Raises:
        ProbeError: As `check_tensors`.
    """
    with torch.device("meta"):  # takes no memory, whatever sizes the configuration says
        check_tensors(kind(replace(config, members=1)), config.members, tensors, path)
        probe = kind(config)
    shape_calibrators(probe, tensors, path)
    probe = probe.to(next(iter(tensors.values())).dtype).to_empty(device="cpu")
    probe.load_state_dict(tensors)
    return probe.eval()
