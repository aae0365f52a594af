"""P(IK) at every layer of the six miniatures: `python -m experiments.layer_sweeps`.

One training run a model. Writes `experiments/figures/layers.png` and the block `layers` of the pages.
"""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentParser

from cascade.errors import one_line_errors
from cascade.miniature.families import MODEL_NAMES
from cascade.probing.fit import Trained
from cascade.report.probe_plots import plot_layers
from cascade.train import train
from experiments.pages import ROOT, write_blocks
from probes.errors import ProbeError

PICTURE = Path("experiments/figures/layers.png")


def markdown(sweeps: dict[str, Trained]) -> str:
    """AUROC with its interval at each layer; the one chosen on validation in bold."""
    deepest = max(len(done.layers) for done in sweeps.values())
    lines = [
        "| model | " + " | ".join(f"layer {layer}" for layer in range(1, deepest)) + " |",
        "|---|" + "---:|" * (deepest - 1),
    ]
    for name, done in sweeps.items():
        cells = []
        for row in done.layers[1:]:  # layer 0 is the same embedding for every prompt: 0.5
            found = row.after["auroc"]
            mark = "**" if row.layer == done.probe.config.layer else ""
            cells.append(f"{mark}{found.value:.3f}{mark} ({found.low:.3f}–{found.high:.3f})")
        cells += ["–"] * (deepest - 1 - len(cells))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m experiments.layer_sweeps", description=__doc__, exit_on_error=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    values = parser.parse_args(args)
    sweeps = {}
    for name in MODEL_NAMES:
        flags = [f"--data.model={name}", "--data.layers=all", f"--data.stores={values.runs / 'stores'}"]
        sweeps[name] = train([*flags, f"--out={values.runs / 'probes'}", "--logger=none"])
    plot_layers(
        ROOT / PICTURE,
        {name.removeprefix("mini-"): done.layers for name, done in sweeps.items()},
        "P(IK) by layer on mini-mmlu test, with 95 % intervals over questions",
    )
    write_blocks({"layers": markdown(sweeps)})


if __name__ == "__main__":
    main()
