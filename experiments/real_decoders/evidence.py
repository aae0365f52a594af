"""What the records say: how good each confidence is, and what chains save with P(IK) and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from cascade.errors import CascadeError
from cascade.policies.calibration import calibrate_model, fit_logistic, logits
from cascade.policies.ledgers import pass_costs
from cascade.scores.arrays import ChainScores, ModelScores, align, model_scores, parts
from cascade.scores.schema import validate_scores
from cascade.simulation.frontier import choose, frontier
from cascade.simulation.simulator import all_costs, simulate
from cascade.statistics.metrics import auroc, auroc_difference, auroc_interval
from experiments.real_decoders.measure import TASKS, columns_of

P_T, P_IK, MLP, SOFT, MEAN = "P(T)", "P(IK) linear", "P(IK) MLP", "P(IK) soft", "P(IK) mean of layers"
FUSED = "P(IK) and P(T)"
FLOOR, HALVINGS = 0.01, 25
_STEADY = 10


class Area(NamedTuple):
    """An area under the ROC curve, or a difference of two, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Record:
    """One model on one task.

    Attributes:
        model, task: Their names.
        table: The score table with its further columns.
    """

    model: str
    task: str
    table: pa.Table

    @classmethod
    def read(cls, path: Path) -> Record:
        """From a file that is called MODEL--TASK.parquet."""
        model, _, task = path.stem.rpartition("--")
        return cls(model, task, pq.read_table(path))

    @cached_property
    def right(self) -> np.ndarray:
        """``[questions]``, bool."""
        return np.asarray(self.table["correct"].to_numpy(zero_copy_only=False), dtype=bool)

    @cached_property
    def scores(self) -> ModelScores:
        """As the simulator takes them."""
        return model_scores(self.model, validate_scores(self.table, f"{self.model} on {self.task}"))

    def column(self, name: str) -> np.ndarray:
        """``[questions]``, float64."""
        return np.asarray(self.table[name].to_numpy(), dtype=np.float64)

    @cached_property
    def calibrated(self) -> np.ndarray:
        """P(T) as the probability of being right, each fold's fitted on the others, ``[questions]``."""
        found, fold = np.zeros(len(self.right)), self.column("fold")
        for number in np.unique(fold):
            test = fold == number
            fitted = calibrate_model(self.scores.take(~test), signals=["p_t"])
            found[test] = fitted.predict(self.scores.signals.take(test))
        return found

    def _logistic(self, *confidences: np.ndarray) -> np.ndarray:
        """Logistic in the log-odds of some confidences, each fold's fitted on the others, ``[questions]``."""
        found, fold = np.zeros(len(self.right)), self.column("fold")
        features = np.column_stack([logits(values) for values in confidences])
        for number in np.unique(fold):
            test = fold == number
            weights = fit_logistic(features[~test], self.right[~test].astype(float))
            found[test] = expit(weights[0] + features[test] @ weights[1:])
        return found

    @cached_property
    def fused(self) -> np.ndarray:
        """P(T) and P(IK) together, ``[questions]``."""
        return self._logistic(self.column("p_t"), self.column("p_ik"))

    @cached_property
    def subjects(self) -> np.ndarray:
        """Of each question (of PopQA the relation that is asked for), ``[questions]``."""
        return np.array(self.table["subject"].to_pylist())

    @cached_property
    def subject_alone(self) -> np.ndarray:
        """The share of the subject's questions in the other folds that the model has right, ``[questions]``.

        Ten more at the mean of all steady the share of a subject that has few.
        """
        found, fold = np.zeros(len(self.right)), self.column("fold")
        for number in np.unique(fold):
            test = fold == number
            for subject in np.unique(self.subjects):
                known = self.right[(self.subjects == subject) & ~test]
                share = (known.sum() + _STEADY * self.right[~test].mean()) / (len(known) + _STEADY)
                found[(self.subjects == subject) & test] = share
        return found

    @cached_property
    def within_subjects(self) -> float:
        """AUROC of P(IK) over pairs of a right and a wrong answer to questions of one subject."""
        areas, pairs = [], []
        for subject in np.unique(self.subjects):
            here = self.subjects == subject
            right = self.right[here]
            if 0 < right.sum() < len(right):
                areas.append(auroc(self.column("p_ik")[here], right))
                pairs.append(int(right.sum()) * int((~right).sum()))
        return float(np.average(areas, weights=pairs))

    @cached_property
    def gain_beside_subject(self) -> Area:
        """AUROC of P(T), the subject's share and P(IK) together minus that without P(IK) (DeLong)."""
        known = self.column("p_t"), self.subject_alone
        return Area(*auroc_difference(self._logistic(*known, self.column("p_ik")), self._logistic(*known), self.right))

    @cached_property
    def confidences(self) -> dict[str, np.ndarray]:
        """By name, ``[questions]`` each; none has seen the label of its question. `SOFT` is multiple choice's."""
        layers = [logits(values) for layer, values in columns_of(self.table, "linear").items() if layer]
        depth = int(self.column("probe_layer")[0])
        found = {P_T: self.column("p_t"), P_IK: self.column("p_ik")}
        for name, kind in ((MLP, "mlp"), (SOFT, "soft")):
            if by_layer := columns_of(self.table, kind):
                found[name] = by_layer[depth]
        return found | {MEAN: np.mean(layers, axis=0), FUSED: self.fused}

    def area(self, values: np.ndarray) -> Area:
        """The AUROC of a confidence (Hanley and McNeil)."""
        area, right = auroc(values, self.right), int(self.right.sum())
        return Area(area, *auroc_interval(area, right, len(self.right) - right))

    @cached_property
    def gain(self) -> Area:
        """AUROC of P(IK) and P(T) together minus that of P(T) alone (DeLong)."""
        return Area(*auroc_difference(self.fused, self.column("p_t"), self.right))


class Tuned(NamedTuple):
    """Thresholds that are a point below the last model on one half of the questions, on the other half.

    Attributes:
        saved, drop: Of the last model's cost and accuracy, shares, ``[2 · halvings]`` each.
    """

    saved: np.ndarray
    drop: np.ndarray


def chain_of(records: Sequence[Record]) -> ChainScores:
    """Models on one task, smallest first."""
    tables = [validate_scores(record.table, record.model) for record in records]
    return align(pa.concat_tables(tables, promote_options="default"), [record.model for record in records])


def tuned(chain: ChainScores, ledger: str, signals: str) -> Tuned:
    """See `Tuned`."""
    found = []
    for halving in range(HALVINGS):
        halves = parts(chain, (0.5, 0.5), f"halving {halving}")
        for chosen_on, reported_on in (halves, halves[::-1]):
            floor = float(chosen_on.models[-1].correct.mean()) - FLOOR
            best = choose(frontier(chosen_on, pass_costs(chosen_on), ledger, signals), "cost", floor)
            row = simulate(reported_on, best.policy, all_costs(reported_on))
            found.append((row.saved["flops"][ledger], row.pd_points / 100))
    saved, drop = np.array(found).T
    return Tuned(saved, drop)


def read_records(folder: Path) -> dict[tuple[str, str], Record]:
    """Every record, by model (smallest first) and task.

    Raises:
        CascadeError: If there is none.
    """
    found = [Record.read(path) for path in sorted(folder.glob("*--*.parquet"))]
    if not found:
        raise CascadeError(f"Expected records (MODEL--TASK.parquet) in {folder}, but there is none")
    found.sort(key=lambda record: (record.scores.info.parameters or 0, TASKS.index(record.task)))
    return {(record.model, record.task): record for record in found}


def models_of(records: Mapping[tuple[str, str], Record]) -> list[str]:
    """Smallest first."""
    return list(dict.fromkeys(model for model, _ in records))
