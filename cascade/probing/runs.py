"""Folders of training runs: what each is called by, and where its probe lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade.engines.states import Form
from probes.files import file_name

RUNS = Path("runs")


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
    ) -> ProbeRun:
        """The run of one model, task and layer, or of several layers, under a folder of runs.

        A probe of something else than the model's own verdicts has another folder: its name has the labels' file and
        the targets in it.
        """
        task = "-".join([task, *(prompts.settings.values() if prompts is not None else ())])
        numbers = [layer] if isinstance(layer, int) else layer
        parts = [file_name(model), task]
        parts += [] if labels is None else [f"labels-{file_name(labels.stem)}"]
        parts += [] if targets == "correct" else [targets]
        return cls(root / "--".join([*parts, f"layer{'s' if len(numbers) > 1 else ''}-{_ranges(numbers)}"]))


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` for 0, 1, 2, 3 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
