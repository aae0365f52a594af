"""Folders of training runs: what each is called by, where its probe lies, and which probes there are.

`trained_probes` is the one index of them. Training, simulation and a live run all look there.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade.engines.states import Form
from probes import ProbeConfig
from probes.errors import ProbeError
from probes.files import REPLACED, file_name

RUNS = Path("runs")
OWN_LABEL = ProbeConfig.label
"""What a probe predicts whose labels are the model's own verdicts."""


@dataclass(frozen=True)
class TrainedProbe:
    """A probe that a training run wrote.

    Attributes:
        checkpoint: Its folder.
        config: What it is, and what it was trained on.
    """

    checkpoint: Path
    config: ProbeConfig

    @property
    def val_loss(self) -> float:
        """Its loss on the validation part; infinite where that was not written."""
        return float(self.config.trained_with.get("val_loss", math.inf))

    @property
    def in_words(self) -> str:
        """Where it lies and what it is worth, since it may come from a trial with other settings of the head."""
        metrics = self.config.metrics
        worth = f", AUROC {metrics['auroc']:.3f} on its test part" if "auroc" in metrics else ""
        run = self.checkpoint.parent.parent if self.checkpoint.parent.name == "probes" else self.checkpoint.parent
        return f"the probe in {run}{worth}, layer {self.config.layer}"


def trained_probes(root: Path) -> Iterator[TrainedProbe]:
    """All probes under a folder of runs: the best of each run, and those of its layers where they were kept.

    One whose configuration cannot be read is said and left out.
    """
    paths = [*root.glob("*/probe/config.json"), *root.glob("*/probes/*/config.json")]
    for path in sorted(path for path in paths if not path.relative_to(root).parts[0].endswith((UNFINISHED, REPLACED))):
        try:
            yield TrainedProbe(path.parent, ProbeConfig.from_json(json.loads(path.read_text()), str(path)))
        except (OSError, ValueError, ProbeError) as error:
            print(f"Left out the probe in {path.parent}, which cannot be read: {error}", file=sys.stderr)


def best_probe(probes: Iterable[TrainedProbe], layer: int | None = None) -> TrainedProbe | None:
    """The probe with the lowest loss on validation, of one layer where that is named; ``None`` where there is none.

    Args:
        probes: Of one model, task and split: their losses are of the same questions.
        layer: The one layer that is wanted.
    """
    wanted = [probe for probe in probes if layer in (None, probe.config.layer)]
    return min(wanted, key=lambda probe: (probe.val_loss, str(probe.checkpoint)), default=None)


UNFINISHED = ".unfinished"
"""How the name of a run's folder ends until the run is finished."""


@dataclass(frozen=True)
class ProbeRun:
    """Where a trained probe and what belongs to it lie."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The probe's checkpoint folder."""
        return self.folder / "probe"

    @property
    def name(self) -> str:
        """The folder's name without the layer: the model, the task, and what is predicted."""
        return self.folder.name.rpartition("--layer")[0]

    @property
    def unfinished(self) -> ProbeRun:
        """Where the run lies until it is finished; an earlier one stays where it is until then."""
        return ProbeRun(self.folder.with_name(f"{self.folder.name}{UNFINISHED}"))

    @classmethod
    def of(
        cls,
        root: Path,
        model: str,
        task: str,
        layer: int | Sequence[int],
        prompts: Form | None = None,
        labels: Path | None = None,
        targets: str = "correct",
        settings: Mapping[str, Any] | None = None,
    ) -> ProbeRun:
        """The run of one model, task and layer, or of several layers, under a folder of runs.

        A probe of something else than the model's own verdicts has another folder: its name has the labels' file and
        the targets in it. So has one of other ``settings`` than the defaults: its name ends in a short hash of them.
        """
        task = "-".join([task, *(prompts.settings.values() if prompts is not None else ())])
        numbers = [layer] if isinstance(layer, int) else layer
        parts = [file_name(model), task]
        parts += [] if labels is None else [f"labels-{file_name(labels.stem)}"]
        parts += [] if targets == "correct" else [targets]
        parts.append(f"layer{'s' if len(numbers) > 1 else ''}-{_ranges(numbers)}")
        if settings:
            parts.append(hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8])
        return cls(root / "--".join(parts))


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
