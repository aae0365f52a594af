"""Simulates cascades from score tables: accuracy, performance drop, three ledgers, significance.

Pure functions on arrays. Works on anybody's logs and never needs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from cascade.errors import CascadeError
from cascade.policies.base import Policy, Thresholds
from cascade.policies.ledgers import LEDGERS, PassCosts, Prices, available_units, charges, pass_costs, question_costs
from cascade.policies.outcome import Outcome
from cascade.policies.thresholds import ThresholdPolicy
from cascade.scores.arrays import ChainScores, sub_chains
from cascade.statistics.metrics import auroc, binary_f1, hallucination_rate, macro_scores
from cascade.statistics.significance import McNemar, mcnemar_paired


@dataclass(frozen=True)
class Row:
    """One line of the report: a single model or a chain, under one policy.

    Attributes:
        models: The chain, smallest first.
        policy: Name of the policy.
        uses_p_ik: Whether some stage asks a probe.
        accuracy: Share of right answers.
        pd_points: Accuracy minus that of the chain's last model, in points (the paper's Table 1).
        pd_relative: The same as a share of the last model's accuracy, in per cent (Tables 3 and 15).
        answered: Questions answered at each stage (Table 8).
        tried: Questions each stage was asked.
        right: Of those it answered, how many rightly.
        saved: For each unit that the scores allow, and each ledger, the share of the last model's cost saved
            (eq. 6); negative where it costs more.
        macro: Macro precision, recall and F1 (Table 2), or ``None`` where answers are not letters.
        mcnemar: Against the last model (Table 9).
        hallucination: Share of all questions that were answered wrongly, abstentions not counted as answers (the
            paper's Table 11), or ``None`` where the scores do not tell what was attempted.
    """

    models: tuple[str, ...]
    policy: str
    uses_p_ik: bool
    accuracy: float
    pd_points: float
    pd_relative: float
    answered: tuple[int, ...]
    tried: tuple[int, ...]
    right: tuple[int, ...]
    saved: dict[str, dict[str, float]]
    macro: tuple[float, float, float] | None
    mcnemar: McNemar
    hallucination: float | None = None

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        values = asdict(self) | {"chain": " → ".join(self.models)}
        if self.hallucination is None:
            del values["hallucination"]
        return values

    def to_flat(self) -> dict[str, str | float]:
        """One value a name, for a row of a data frame."""
        shares = {
            f"saved {unit}, {ledger}": value
            for unit, ledgers in self.saved.items()
            for ledger, value in ledgers.items()
        }
        drop = {"pd_points": self.pd_points, "pd_relative": self.pd_relative}
        return {"chain": " → ".join(self.models), "accuracy": self.accuracy, **drop, **shares}


@dataclass(frozen=True)
class Played:
    """What a policy did with every question.

    Attributes:
        outcome: ``[models, questions]``, int8, of `Outcome`.
        who: ``[questions]``: the place of the model that answered.
        correct: ``[questions]``, bool.
    """

    outcome: np.ndarray
    who: np.ndarray
    correct: np.ndarray


def play(chain: ChainScores, policy: Policy) -> Played:
    """Runs a policy over a chain's questions."""
    outcome = policy.route(chain)
    who = (outcome == Outcome.ANSWERED).argmax(axis=0)
    return Played(outcome, who, chain.correct[who, np.arange(len(who))])


def spent(chain: ChainScores, policy: Policy, outcome: np.ndarray, costs: PassCosts, ledger: str) -> np.ndarray:
    """What each question cost under a policy, with its probes and readers: ``[questions]``.

    Args:
        chain: The scores.
        policy: Says which confidences it asks, and so pays for.
        outcome: Of the policy on these questions.
        costs: From `pass_costs`, of the same questions.
        ledger: One of `LEDGERS`.
    """
    found = np.empty(len(chain))
    for rows, piece in policy.pieces(chain):
        asks = piece.asks(chain.offers)
        readers = [place for place, asked in enumerate(asks) if "p_ik_reader" in asked]
        own = costs if len(rows) == len(chain) else costs.take(rows)
        there = outcome if len(rows) == len(chain) else outcome[:, rows]
        found[rows] = question_costs(there, charges(own, ledger, asks)) + own.reading(readers)
    return found


def all_costs(chain: ChainScores, prices: Prices | None = None) -> dict[str, PassCosts]:
    """What passes cost, in every unit that the scores allow."""
    return {unit: pass_costs(chain, unit, prices) for unit in available_units(chain, prices)}


def saved_shares(
    chain: ChainScores, policy: Policy, outcome: np.ndarray, costs: Mapping[str, PassCosts]
) -> dict[str, dict[str, float]]:
    """For each unit and ledger the share of the last model's cost saved (eq. 6); NaN where that is nothing.

    Args:
        chain: The scores, with or without labels.
        policy: What was played.
        outcome: From `play`.
        costs: From `all_costs`, of the same chain.
    """

    def saved(cost: PassCosts, ledger: str) -> float:
        whole = cost.whole[-1].sum()
        return float(1 - spent(chain, policy, outcome, cost, ledger).sum() / whole) if whole else float("nan")

    return {unit: {ledger: saved(cost, ledger) for ledger in LEDGERS} for unit, cost in costs.items()}


def simulate(chain: ChainScores, policy: Policy, costs: Mapping[str, PassCosts], played: Played | None = None) -> Row:
    """Runs one chain over its questions.

    Args:
        chain: The scores; performance drop and savings are against its last model.
        policy: Who answers.
        costs: From `all_costs`, of the same chain.
        played: From `play`, where that was done already.
    """
    if not chain.labelled:
        raise CascadeError("Expected scores with labels to simulate on, but these have no column correct")
    played, last = play(chain, policy) if played is None else played, chain.models[-1]
    accuracy, reference = float(played.correct.mean()), float(last.correct.mean())

    predictions = [m.predictions for m in chain.models if m.predictions is not None]
    macro = None
    lettered = chain.answers is not None and all(len(str(a)) == 1 for a in chain.answers)
    if chain.answers is not None and lettered and len(predictions) == len(chain.models):
        macro = macro_scores(chain.answers, np.stack(predictions)[played.who, np.arange(len(played.who))])
    attempted = [m.attempted for m in chain.models if m.attempted is not None]
    hallucination = None
    if len(attempted) == len(chain.models):
        hallucination = hallucination_rate(played.correct, np.stack(attempted)[played.who, np.arange(len(played.who))])
    used = policy.shown(played.outcome)
    outcome = played.outcome[used]
    return Row(
        models=tuple(chain.names[place] for place in used),
        policy=policy.name,
        uses_p_ik=any("p_ik" in asked for asked in policy.asks(chain.offers)),
        accuracy=accuracy,
        pd_points=100 * (accuracy - reference),
        pd_relative=100 * (accuracy / reference - 1) if reference else float("nan"),
        answered=tuple(int(n) for n in (outcome == Outcome.ANSWERED).sum(axis=1)),
        tried=tuple(int(n) for n in (~np.isin(outcome, (Outcome.NOT_ASKED, Outcome.PASSED_BY_READER))).sum(axis=1)),
        right=tuple(int(n) for n in ((outcome == Outcome.ANSWERED) & played.correct).sum(axis=1)),
        saved=saved_shares(chain, policy, played.outcome, costs),
        macro=macro,
        mcnemar=mcnemar_paired(played.correct, last.correct),
        hallucination=hallucination,
    )


def single(chain: ChainScores, place: int, costs: Mapping[str, PassCosts]) -> Row:
    """One model of the chain by itself, beside the chain's last model."""
    return simulate(chain, ThresholdPolicy.alone(place), costs)


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
        known = model.signals
        for name, values, threshold in (("P(IK)", known.p_ik, thresholds.p_ik), ("P(T)", known.p_t, thresholds.p_t)):
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
        units: In which costs are counted.
        singles: One row a model, smallest first.
        chains: One row a sub-chain with P(IK) (where there are probes).
        without_p_ik: The same chains without P(IK) (Table 5); empty where there are no probes.
        confidences: Table 14.
    """

    questions: int
    fingerprint: str
    thresholds: Thresholds
    units: tuple[str, ...]
    singles: tuple[Row, ...]
    chains: tuple[Row, ...]
    without_p_ik: tuple[Row, ...]
    confidences: tuple[ConfidenceQuality, ...]

    @property
    def unit(self) -> str:
        """The unit of the tables and of the plot of costs: the first in which the last model costs something."""
        costly = (u for u in self.units if not np.isnan(self.singles[-1].saved[u]["full-path"]))
        return next(costly, self.units[0])

    def to_json(self) -> dict[str, object]:
        """Plain values, for the JSON file."""
        return {
            "questions": self.questions,
            "fingerprint": self.fingerprint,
            "thresholds": asdict(self.thresholds),
            "units": list(self.units),
            "singles": [r.to_json() for r in self.singles],
            "chains": [r.to_json() for r in self.chains],
            "without_p_ik": [r.to_json() for r in self.without_p_ik],
            "confidences": [c.to_json() for c in self.confidences],
        }


def report(chain: ChainScores, thresholds: Thresholds, prices: Prices | None = None) -> Report:
    """Every single model and every sub-chain, with and without P(IK).

    Each chain is measured against its own last model, as in the paper's tables.

    Args:
        chain: The scores.
        thresholds: The same for every stage.
        prices: For the ledgers in dollars.
    """
    if not chain.question_ids:
        raise CascadeError("Expected at least one question to simulate on, but there is none")
    costs = all_costs(chain, prices)

    def sub_chain(places: tuple[int, ...], which: Thresholds) -> Row:
        part = chain.keep(places)
        # Counted anew for each chain: in the unit of calls, only the chain's last model costs anything.
        own = {unit: pass_costs(part, unit, prices) for unit in costs}
        return simulate(part, ThresholdPolicy.whole([which] * (len(places) - 1)), own)

    def run(which: Thresholds) -> tuple[Row, ...]:
        return tuple(sub_chain(places, which) for places in sub_chains(chain))

    with_p_ik = run(thresholds)
    without = replace(thresholds, p_ik=None)
    return Report(
        questions=len(chain.question_ids),
        fingerprint=chain.fingerprint,
        thresholds=thresholds,
        units=tuple(costs),
        singles=tuple(single(chain, place, costs) for place in range(len(chain.models))),
        chains=with_p_ik,
        without_p_ik=run(without) if any(r.uses_p_ik for r in with_p_ik) else (),
        confidences=tuple(confidence_quality(chain, thresholds)),
    )
