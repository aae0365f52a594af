"""Simulates cascades from score tables: accuracy, performance drop, three ledgers, significance.

Pure functions on arrays. Works on anybody's logs and never needs a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

import numpy as np

from cascade.errors import CascadeError
from cascade.simulation.ledgers import LEDGERS, pass_flops, reduced_cost
from cascade.simulation.metrics import auroc, binary_f1, macro_scores
from cascade.simulation.policy import Outcome, Thresholds, route
from cascade.simulation.scores import ChainScores
from cascade.simulation.significance import McNemar, mcnemar_paired


@dataclass(frozen=True)
class Row:
    """One line of the report: a single model or a chain.

    Attributes:
        models: The chain, smallest first.
        uses_p_ik: Whether some stage asks a probe.
        accuracy: Share of right answers.
        pd_points: Accuracy minus that of the chain's last model, in points (the paper's Table 1).
        pd_relative: The same as a share of the last model's accuracy, in per cent (Tables 3 and 15).
        answered: Questions answered at each stage (Table 8).
        tried: Questions each stage was asked.
        flops: For each ledger, the share of the last model's FLOPs saved (eq. 6), or ``None`` without N.
        seconds: The same for measured seconds, where every model has them.
        macro: Macro precision, recall and F1 (Table 2), or ``None`` where answers are not letters.
        mcnemar: Against the last model (Table 9).
    """

    models: tuple[str, ...]
    uses_p_ik: bool
    accuracy: float
    pd_points: float
    pd_relative: float
    answered: tuple[int, ...]
    tried: tuple[int, ...]
    flops: dict[str, float] | None
    seconds: dict[str, float] | None
    macro: tuple[float, float, float] | None
    mcnemar: McNemar | None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"chain": " → ".join(self.models)}


def restrict(chain: ChainScores, keep: Sequence[int]) -> ChainScores:
    """A sub-chain: the models at these places."""
    return replace(chain, models=tuple(chain.models[i] for i in keep))


def sub_chains(chain: ChainScores) -> list[ChainScores]:
    """Every sub-chain of two or more models, in the paper's order (shorter first)."""
    places = range(len(chain.models))
    return [restrict(chain, keep) for size in range(2, len(places) + 1) for keep in combinations(places, size)]


def simulate(chain: ChainScores, thresholds: Sequence[Thresholds]) -> Row:
    """Runs one chain over its questions.

    Args:
        chain: The scores; performance drop and savings are against its last model.
        thresholds: One for each stage but the last.
    """
    outcome = route(chain, thresholds)
    who = (outcome == Outcome.ANSWERED).argmax(axis=0)
    rows = np.arange(len(who))
    correct = np.stack([m.correct for m in chain.models])[who, rows]
    uses = any(t.p_ik is not None and m.p_ik is not None for t, m in zip(thresholds, chain.models, strict=False))
    return _row(chain, outcome, who, correct, uses)


def single(chain: ChainScores, place: int) -> Row:
    """One model of the chain by itself, beside the chain's last model."""
    outcome = np.full((len(chain.models), len(chain.question_ids)), Outcome.NOT_ASKED, dtype=np.int8)
    outcome[place] = Outcome.ANSWERED
    who = np.full(len(chain.question_ids), place)
    row = _row(chain, outcome, who, chain.models[place].correct, uses=False)
    n = len(chain.question_ids)
    return replace(row, models=(chain.models[place].name,), answered=(n,), tried=(n,))


def _row(chain: ChainScores, outcome: np.ndarray, who: np.ndarray, correct: np.ndarray, uses: bool) -> Row:
    models, last = chain.models, chain.models[-1]
    accuracy, reference = float(correct.mean()), float(last.correct.mean())
    shares = [m.exit_share for m in models]

    def saved(prices: np.ndarray) -> dict[str, float]:
        return {ledger: reduced_cost(outcome, prices, shares, ledger) for ledger in LEDGERS}

    sizes = [m.parameters for m in models if m.parameters is not None]
    times = [m.seconds for m in models if m.seconds is not None]
    predictions = [m.predictions for m in models if m.predictions is not None]
    macro = None
    lettered = chain.answers is not None and all(len(str(a)) == 1 for a in chain.answers)
    if chain.answers is not None and lettered and len(predictions) == len(models):
        macro = macro_scores(chain.answers, np.stack(predictions)[who, np.arange(len(who))])
    return Row(
        models=chain.names,
        uses_p_ik=uses,
        accuracy=accuracy,
        pd_points=100 * (accuracy - reference),
        pd_relative=100 * (accuracy / reference - 1) if reference else float("nan"),
        answered=tuple(int(n) for n in (outcome == Outcome.ANSWERED).sum(axis=1)),
        tried=tuple(int(n) for n in (outcome != Outcome.NOT_ASKED).sum(axis=1)),
        flops=saved(np.array([pass_flops(n) for n in sizes])) if len(sizes) == len(models) else None,
        seconds=saved(np.stack(times)) if len(times) == len(models) else None,
        macro=macro,
        mcnemar=mcnemar_paired(correct, last.correct),
    )


@dataclass(frozen=True)
class ConfidenceQuality:
    """How well one model's confidences tell right from wrong (the paper's Table 14, and the same for P(T))."""

    model: str
    confidence: str
    accuracy: float
    f1: float
    auroc: float
    mean: float

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def confidence_quality(chain: ChainScores, thresholds: Thresholds) -> list[ConfidenceQuality]:
    """P(IK) and P(T) of every model, as classifiers of its own correctness at the given thresholds."""
    found = []
    for model in chain.models:
        for name, values, threshold in (("P(IK)", model.p_ik, thresholds.p_ik), ("P(T)", model.p_t, thresholds.p_t)):
            if values is None or threshold is None:
                continue
            predicted = values >= threshold
            found.append(
                ConfidenceQuality(
                    model.name,
                    name,
                    float((predicted == model.correct).mean()),
                    binary_f1(predicted, model.correct),
                    auroc(values, model.correct),
                    float(values.mean()),
                )
            )
    return found


@dataclass(frozen=True)
class Report:
    """Everything `cascade.simulate` prints.

    Attributes:
        questions: How many.
        thresholds: The same for every stage.
        singles: One row a model, smallest first.
        chains: One row a sub-chain with P(IK) (where there are probes).
        without_p_ik: The same chains without P(IK) (Table 5); empty where there are no probes.
        confidences: Table 14.
    """

    questions: int
    fingerprint: str
    thresholds: Thresholds
    singles: tuple[Row, ...]
    chains: tuple[Row, ...]
    without_p_ik: tuple[Row, ...]
    confidences: tuple[ConfidenceQuality, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values, for the JSON file."""
        return {
            "questions": self.questions,
            "fingerprint": self.fingerprint,
            "thresholds": asdict(self.thresholds),
            "singles": [r.to_json() for r in self.singles],
            "chains": [r.to_json() for r in self.chains],
            "without_p_ik": [r.to_json() for r in self.without_p_ik],
            "confidences": [c.to_json() for c in self.confidences],
        }


def report(chain: ChainScores, thresholds: Thresholds) -> Report:
    """Every single model and every sub-chain, with and without P(IK).

    Each chain is measured against its own last model, as in the paper's tables.
    """
    if not chain.question_ids:
        raise CascadeError("Expected at least one question to simulate on, but there is none")
    chains = sub_chains(chain)

    def run(which: Thresholds) -> tuple[Row, ...]:
        return tuple(simulate(c, [which] * (len(c.models) - 1)) for c in chains)

    with_p_ik = run(thresholds)
    without = replace(thresholds, p_ik=None)
    return Report(
        questions=len(chain.question_ids),
        fingerprint=chain.fingerprint,
        thresholds=thresholds,
        singles=tuple(single(chain, place) for place in range(len(chain.models))),
        chains=with_p_ik,
        without_p_ik=run(without) if any(r.uses_p_ik for r in with_p_ik) else (),
        confidences=tuple(confidence_quality(chain, thresholds)),
    )
