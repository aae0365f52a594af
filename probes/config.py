"""What a probe is and what it was trained on: the configuration in its checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Real
from typing import Any

from probes.errors import ProbeError
from probes.heads import LARGEST_WIDTH, HeadConfig, whole_number

FORMAT = 1
_RANGES = (("hidden_size", 1, LARGEST_WIDTH), ("layer", 0, 10**6), ("num_layers", 0, 10**6), ("members", 1, 10_000))


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
        for name, least, most in _RANGES:
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least, most))
        if not isinstance(self.threshold, Real) or isinstance(self.threshold, bool) or not 0 <= self.threshold <= 1:
            raise ProbeError(f"Expected `threshold` to be a number in [0, 1], but got {self.threshold!r}")
        object.__setattr__(self, "threshold", float(self.threshold))
        for name in (f.name for f in fields(self) if f.type == "str"):
            if not isinstance(value := getattr(self, name), str):
                raise ProbeError(f"Expected `{name}` to be a text, but got {value!r}")
        for name in ("metrics", "trained_with"):
            held = getattr(self, name)
            if not isinstance(held, Mapping) or not all(
                isinstance(key, str) and isinstance(value, Real) and not isinstance(value, bool)
                for key, value in held.items()
            ):
                raise ProbeError(f"Expected `{name}` to be numbers by their names, but got {held!r}")
        if not isinstance(self.head, HeadConfig):
            raise ProbeError(f"Expected `head` to be a HeadConfig, but got {self.head!r}")
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
