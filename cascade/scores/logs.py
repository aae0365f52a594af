"""Anybody's logs as the scores of a chain: which models, which questions choose and which are reported on.

Reads and divides; what follows from the scores is `cascade.simulation`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cascade.errors import CascadeError
from cascade.scores.arrays import ChainScores, align, check_chain, parts
from cascade.scores.reading import named, read_scores, read_table
from cascade.scores.schema import join_scores

_OF_PROBES = ("p_ik", "probe_layer", "probe_parameters")


def read_logs(sources: Sequence[Any], columns: Mapping[str, str] | None = None, probes: bool = True) -> pa.Table:
    """Labelled score tables as one.

    Args:
        sources: Files of any format, folders of them, data frames.
        columns: From the schema's names to the files', where they differ.
        probes: Whether P(IK) is asked at all; without, its columns are left out.

    Raises:
        CascadeError: As `cascade.scores.schema.read_scores`.
    """
    return _asked(read_scores(sources, columns), probes)


def read_other_logs(path: Path, columns: Mapping[str, str] | None = None, probes: bool = True) -> tuple[pa.Table, bool]:
    """Other data for a policy that stays as it is: a score table or a folder of them, and whether it has labels.

    Raises:
        CascadeError: If there is no score table, or one is not valid.
    """
    table, labelled = _joined([path], columns, strict=False)
    return _asked(table, probes), labelled


def _joined(paths: Sequence[Path], columns: Mapping[str, str] | None, strict: bool) -> tuple[pa.Table, bool]:
    """Tables as one, and whether they have labels; without ``strict`` they may go by the schema's own names."""
    read = [(named(path), read_table(path)) for path in paths]
    held = set.intersection(*(set(table.column_names) for _, table in read))
    labelled = (columns or {}).get("correct", "correct") in held or (not strict and "correct" in held)
    wanted = {
        ours: theirs
        for ours, theirs in (columns or {}).items()
        if (theirs in held or strict) and (labelled or ours != "correct")
    }
    return join_scores(read, wanted, labelled), labelled


def check_logs(files: Sequence[Path], columns: Mapping[str, str] | None = None) -> tuple[pa.Table, bool]:
    """Score tables as one, with or without labels, and whether they have them.

    Raises:
        CascadeError: If one is not valid, or the models answered different questions: `cascade.simulate` would refuse
            them.
    """
    table, labelled = _joined(files, columns, strict=True)
    models = sorted(set(table["model"].to_pylist()))
    ids = {name: table.filter(pc.equal(table["model"], name))["question_id"].to_pylist() for name in models}
    for name in models[1:]:
        if odd := sorted(set(ids[name]) ^ set(ids[models[0]])):
            raise CascadeError(
                f"Expected every model to have answered the same questions, but {name!r} ({len(ids[name]):,} rows) and "
                f"{models[0]!r} ({len(ids[models[0]]):,} rows) differ in {len(odd)}, such as {odd[0]!r}"
            )
    return table, labelled


def _asked(table: pa.Table, probes: bool) -> pa.Table:
    if probes:
        return table
    return table.drop_columns([name for name in _OF_PROBES if name in table.column_names])


def chain_of(table: pa.Table) -> list[str]:
    """All models of a table by their parameters, smallest first.

    Raises:
        CascadeError: If it does not say every model's parameters, or there are not two models.
    """
    if "parameters" not in table.column_names or table["parameters"].null_count:
        raise CascadeError("Expected `chain`, smallest model first, as the scores do not say every model's parameters")
    sizes = dict(zip(table["model"].to_pylist(), table["parameters"].to_pylist(), strict=True))
    names = sorted(sizes, key=lambda name: (sizes[name], name))
    check_chain(names)
    return names


def sizes_of(table: pa.Table, names: Sequence[str]) -> list[tuple[str, int | None]]:
    """Each model's name and its parameters, where a table says them."""
    if "parameters" not in table.column_names:
        return [(name, None) for name in names]
    sizes = dict(zip(table["model"].to_pylist(), table["parameters"].to_pylist(), strict=True))
    return [(name, sizes.get(name)) for name in names]


def divide(
    table: pa.Table, names: Sequence[str], split: str | None, normalize: bool
) -> tuple[ChainScores, ChainScores, ChainScores]:
    """The questions that choose, those that are reported on, and those of the tables at fixed thresholds.

    Args:
        table: Scores of a chain's models.
        names: The chain, smallest first.
        split: Only questions of this split. By default validation chooses and test is reported on; a table without
            these is halved by the questions' ids, training questions left out.
        normalize: Read P(T) over the options' mass.
    """
    splits = set(table["split"].to_pylist()) if "split" in table.column_names else set()
    if split is None and {"validation", "test"} <= splits:
        test = align(table, names, "test", normalize)
        return align(table, names, "validation", normalize), test, test
    if split is None and "train" in splits:
        table = table.filter(pc.not_equal(table["split"], "train"))
        if not table.num_rows:
            raise CascadeError("Expected questions that no probe was trained on, but all are of the train split")
    whole = align(table, names, split, normalize)
    choose_on, report_on = parts(whole, (0.5, 0.5))
    return choose_on, report_on, whole


def other_part(table: pa.Table, names: Sequence[str], normalize: bool, labelled: bool = True) -> ChainScores:
    """Other data's questions for a frozen policy: its test part where it has one, else all of it."""
    splits = set(table["split"].to_pylist()) if "split" in table.column_names else set()
    return align(table, names, "test" if "test" in splits else None, normalize, labelled)
