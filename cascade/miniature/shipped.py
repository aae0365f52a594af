"""What the miniatures ship with beside their weights, so that a chain of them starts without training anything.

The P(IK) probes of the smaller ones, and every model's scores of mini-mmlu's validation questions, on which a
chain's thresholds are chosen. `python -m cascade.miniature.shipped` makes both again, as anybody's are made.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from jsonargparse import ArgumentParser
from tqdm import tqdm

from cascade.errors import one_line_errors
from cascade.miniature.families import ASSETS, MODEL_NAMES
from cascade.simulation.schema import read_scores, write_scores
from probes.errors import ProbeError

TASK, PROBE, VALIDATION = "mini-mmlu", "probe", "validation.parquet"
# The large ones are last in their chains, and nobody asks them whether they know.
PROBED = tuple(name for name in MODEL_NAMES if not name.endswith("-large"))


def shipped_probe(name: str) -> Path | None:
    """The checkpoint folder of a miniature's probe; ``None`` for a large one, or a model that is no miniature."""
    folder = ASSETS / name / PROBE
    return folder if name in PROBED else None


def validation_scores(names: Sequence[str]) -> pa.Table | None:
    """The score tables of miniatures on mini-mmlu's validation split, as one; ``None`` if one is no miniature.

    P(IK) is the shipped probe's, which was calibrated on these very questions; null where there is no probe. There
    are no measured seconds, which would be another machine's, and no p_right, since nothing is trained on these.
    """
    if not set(names) <= set(MODEL_NAMES):
        return None
    return read_scores([ASSETS / name / VALIDATION for name in names])


def ship(name: str, runs: Path, out: Path = ASSETS) -> pa.Table:
    """Writes what one miniature ships with.

    Args:
        name: The model.
        runs: Folder of stores and probe runs, scored and trained where missing.
        out: Folder of the models' folders.

    Returns:
        The validation rows that were written.
    """
    # Here and not above, so that what is shipped can be read without loading torch.
    from cascade.models.huggingface import HuggingFaceModel
    from cascade.probing import probe_for, with_p_ik
    from cascade.scoring import score

    model = HuggingFaceModel(name)
    scored = score(model, TASK, runs / "stores")
    probe = probe_for(model, TASK, scored, runs) if name in PROBED else None
    if probe is not None:
        probe.picture = None  # twice the size of the probe itself
        shutil.rmtree(out / name / PROBE, ignore_errors=True)
        probe.save_pretrained(out / name / PROBE)
    table = with_p_ik(scored, probe, split_seed=0).drop_columns(["seconds", "p_right"])
    table = table.filter(pc.equal(table["split"], "validation"))
    write_scores(table, name, out / name / VALIDATION)
    return table


@one_line_errors(ProbeError)
def main(args: list[str] | None = None) -> None:
    """The entry point."""
    parser = ArgumentParser(prog="python -m cascade.miniature.shipped", description=__doc__, exit_on_error=False)
    parser.add_argument("--models", nargs="+", choices=MODEL_NAMES, default=list(MODEL_NAMES), help="which ones")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    parser.add_argument("--out", type=Path, default=ASSETS, help="each model has a folder here")
    values = parser.parse_args(args)
    for name in tqdm(values.models, desc="miniatures", unit="model", disable=None, leave=False):
        table = ship(name, values.runs, values.out)
        tqdm.write(f"{name}: {table.num_rows} validation rows in {values.out / name}", file=sys.stderr)


if __name__ == "__main__":
    main()
