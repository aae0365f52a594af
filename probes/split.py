"""Train, validation and test rows: stratified, seeded, and following each question's id."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from probes.errors import ProbeError


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each sorted, and the ids they stand for."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    ids: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of which id went where: two probes with the same one were trained and tested on the same rows."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update("\n".join(sorted(self.ids[row] for row in part)).encode() + b"\0")
        return digest.hexdigest()[:16]


def stratified_split(ids: Sequence[str], strata: Sequence[str], seed: int = 0, share: float = 0.1) -> Split:
    """Splits rows 80/10/10 within each stratum, each tenth rounded up.

    Within a stratum rows are ordered by a hash of seed and id: the first tenth is the test part, the next the
    validation part. The order of rows does not matter, and adding a question moves at most one other across
    each border of its stratum. On MMLU's 57 subjects this gives the paper's 1,430 test questions.

    Args:
        ids: One unique id a row.
        strata: One stratum a row, such as the subject.
        seed: Another seed is another split.
        share: Of the test part and of the validation part.

    Raises:
        ProbeError: If ids repeat or the lengths differ.
    """
    if len(ids) != len(strata):
        raise ProbeError(f"Expected as many strata as ids, but got {len(strata)} and {len(ids)}")
    if len(set(ids)) != len(ids):
        repeated = next(i for i in ids if ids.count(i) > 1)
        raise ProbeError(f"Expected unique ids to split by, but {repeated!r} repeats")
    members: dict[str, list[int]] = defaultdict(list)
    for row, stratum in enumerate(strata):
        members[stratum].append(row)
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for rows in members.values():
        rows.sort(key=lambda row: hashlib.sha256(f"{seed}:{ids[row]}".encode()).digest())
        tenth = math.ceil(len(rows) * share - 1e-9)
        test += rows[:tenth]
        validation += rows[tenth : 2 * tenth]
        train += rows[2 * tenth :]
    return Split(tuple(sorted(train)), tuple(sorted(validation)), tuple(sorted(test)), tuple(ids))
