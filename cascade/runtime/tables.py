"""The score table of any engine: what `cascade.score --out` writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from cascade.engines.states import showing_states
from cascade.errors import CascadeError
from cascade.probing.apart import score_apart
from cascade.probing.chain import with_p_ik
from cascade.probing.data import ScoredTaskDataModule
from cascade.runtime.build import build_model, probe_of
from cascade.runtime.config import Member
from cascade.scores.schema import CONFIDENCES
from cascade.scoring.answers import write_answers, write_table
from cascade.scoring.confidence.asking import Asking

ALL = "all"


def write_scores(
    data: ScoredTaskDataModule,
    out: Path,
    asking: Asking,
    confidences: str | None = None,
    probe: str | None = None,
    limit: int | None = None,
    devices: int = 1,
    num_nodes: int = 1,
) -> pa.Table | None:
    """Writes the score table of any engine.

    Args:
        data: What is asked of which model.
        out: Parquet file for the score table.
        asking: How confidences are asked.
        confidences: Which are asked beside P(T), separated by commas, or all that go with the questions.
        probe: Folder or Hub id of the model's P(IK) probe, or none; by default a miniature has the one shipped with it.
        limit: Only so many questions, from the first on.
        devices: See `cascade.probing.apart.score_apart`.
        num_nodes: See `cascade.probing.apart.score_apart`.

    Returns:
        The table; ``None`` in other processes than that of rank 0.
    """
    if out.suffix != ".parquet":
        raise CascadeError(f"Expected `out` to end in .parquet, but got {out}")
    member = Member(data.settings, probe=probe)
    engine = build_model(member, probe=probe_of(member))
    if confidences is None and limit is None and data.settings.shows_states:
        scored = score_apart(data, devices, num_nodes)
        return None if scored is None else write_table(with_p_ik(scored, showing_states(engine).probe), data.task, out)
    if devices > 1 or num_nodes > 1:
        raise CascadeError(
            f"Expected one process for `confidences`, `limit` and models that show no hidden states, but got {devices} "
            f"on {num_nodes} nodes"
        )
    names = [name.strip() for name in (confidences or "").split(",") if name.strip()]
    if names == [ALL]:
        lettered = all(question.choices for question in data.task.questions)
        names = [name for name in CONFIDENCES if lettered or name != "entropy"]
    return write_answers(engine, data.task, out, replace(asking, methods=tuple(names)), limit)
