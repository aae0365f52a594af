"""Makes what the miniatures ship with beside their weights: `python -m experiments.miniature.shipped`.

The P(IK) probes of the smaller ones, and every model's scores of mini-mmlu's validation questions, as anybody's are
made; `cascade.miniature.shipped` reads them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from jsonargparse import ArgumentParser
from tqdm import tqdm

from cascade.engines.settings import DecoderConfig
from cascade.errors import one_line_errors
from cascade.miniature.families import ASSETS, MODEL_NAMES
from cascade.miniature.shipped import PROBE, PROBED, TASK, VALIDATION
from cascade.probing.chain import probe_for, with_p_ik
from cascade.scores.schema import write_scores
from cascade.scoring.scored import score
from probes.errors import ProbeError


def ship(name: str, runs: Path, out: Path = ASSETS) -> pa.Table:
    """Writes what one miniature ships with.

    Args:
        name: The model.
        runs: Folder of stores and probe runs, scored and trained where missing.
        out: Folder of the models' folders.

    Returns:
        The validation rows that were written.
    """
    model = DecoderConfig(name).build()
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
    parser = ArgumentParser(prog="python -m experiments.miniature.shipped", description=__doc__, exit_on_error=False)
    parser.add_argument("--models", nargs="+", choices=MODEL_NAMES, default=list(MODEL_NAMES), help="which ones")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of stores and probe runs")
    parser.add_argument("--out", type=Path, default=ASSETS, help="each model has a folder here")
    values = parser.parse_args(args)
    for name in tqdm(values.models, desc="miniatures", unit="model", disable=None, leave=False):
        table = ship(name, values.runs, values.out)
        tqdm.write(f"{name}: {table.num_rows} validation rows in {values.out / name}", file=sys.stderr)


if __name__ == "__main__":
    main()
