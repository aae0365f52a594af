"""A study's answer and its reservations in plain words. All numbers are the study's; none is computed here."""

from __future__ import annotations

from dataclasses import dataclass

from cascade.policies.ledgers import UNITS
from cascade.simulation.evaluation import Evaluation
from cascade.simulation.study import Study
from cascade.statistics.significance import Interval


@dataclass(frozen=True)
class Recommendation:
    """A recommendation in plain words.

    Attributes:
        sentences: How it was chosen, and what it is on other questions.
        non_inferiority: One sentence.
        promise: One sentence, or ``None`` where none was asked for.
        warnings: What the scores do not allow, and one for each data on which confidences have moved.
    """

    sentences: tuple[str, str]
    non_inferiority: str
    promise: str | None
    warnings: tuple[str, ...]


def recommendation(study: Study) -> Recommendation:
    """The study's answer in two sentences, and its reservations."""
    goal, found, last = study.goal, study.chosen.reported, study.names[-1]
    wanted = {
        "cost": f"the cheapest policy that is right on at least {100 * study.limit:.1f} % of them{_floor(study)}",
        "accuracy": f"the most accurate policy that costs at most {100 * study.limit:.1f} % of {last} alone",
        "price": f"the policy of the highest accuracy − {study.limit:g} × cost",
    }[goal.objective]
    reported = study.evaluations[0]
    unit = UNITS[study.unit].split(" (")[0]
    level = f"{100 * found.confidence:g} % interval "
    inferior = "" if reported.non_inferiority is None else reported.non_inferiority.statement
    return Recommendation(
        sentences=(
            f"Chosen on {study.chosen_on:,} questions as {wanted}: {study.chosen.policy.in_words(study.names)}.",
            f"On {found.questions:,} others it is right {_span(found.accuracy, level)} of the time and {last} alone "
            f"{100 * study.singles[-1][1]:.1f} %, a difference of {100 * found.difference.estimate:+.2f} points "
            f"({100 * found.difference.low:+.2f} to {100 * found.difference.high:+.2f}); it costs "
            f"{_span(found.cost_ratio)} of what {last} alone costs, in the {goal.ledger} ledger, counted in {unit}.",
        ),
        non_inferiority=f"Against {last} alone: {inferior}." if inferior else "",
        promise=_promise(study),
        warnings=(*study.notes, *(line for e in study.evaluations if (line := _moved(e)))),
    )


def _floor(study: Study) -> str:
    """How the floor was set, in parentheses, where it is the default; empty otherwise."""
    if study.goal.limit is not None:
        return ""
    return f" (one point below {study.names[-1]}, by one standard error of the difference)"


def _promise(study: Study) -> str | None:
    """The promise and the policy that it holds for, which is seldom the recommended one."""
    found = study.guarantee
    if found is None or not found.holds:
        return None if found is None else found.statement
    return f"{found.statement} The promise is of: {found.point.policy.in_words(study.names)}."


def _moved(evaluation: Evaluation) -> str | None:
    moved = [shift for shift in evaluation.shifts if shift.warning]
    if not moved:
        return None
    return (
        f"On {evaluation.name}, {len(moved)} of {len(evaluation.shifts)} confidences are distributed differently from "
        f"where the thresholds were set (Kolmogorov-Smirnov distance up to {max(s.distance for s in moved):.2f}): what "
        f"the thresholds keep may be of another kind."
    )


def _span(value: Interval, level: str = "") -> str:
    return f"{100 * value.estimate:.1f} % ({level}{100 * value.low:.1f} to {100 * value.high:.1f})"
