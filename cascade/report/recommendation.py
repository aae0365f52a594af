"""A study's answer and its reservations in plain words. All numbers are the study's; none is computed here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cascade.policies.ledgers import UNITS
from cascade.simulation.climbing import fewest_questions
from cascade.simulation.evaluation import LEVEL
from cascade.simulation.study import Study
from cascade.statistics.significance import Interval, in_points


@dataclass(frozen=True)
class Recommendation:
    """A recommendation in plain words.

    Attributes:
        sentences: What is recommended, whether it is promised, and how it does on questions that did not choose it.
        non_inferiority: One sentence; empty beside a promise.
        outlook: What other numbers of questions would buy; empty where nothing is promised of any policy.
        elsewhere: For each other data whether its questions look like those that the policy rests on.
        warnings: What the scores do not allow.
    """

    sentences: tuple[str, ...]
    non_inferiority: str
    outlook: str
    elsewhere: tuple[str, ...]
    warnings: tuple[str, ...]


def recommendation(study: Study) -> Recommendation:
    """The study's answer in a few sentences, and its reservations."""
    reported, promise = study.evaluations[0], study.guarantee
    inferior = "" if reported.non_inferiority is None else reported.non_inferiority.statement
    sentences: tuple[str, ...]
    if promise is None:
        sentences = _unpromised(study)
    elif promise.holds:
        sentences = (
            f"Recommended: {study.chosen.policy.in_words(study.names)}.",
            promise.statement,
            f"{_how(study)}: {_measured(study, True)}",
        )
    else:
        sentences = (f"Recommended: ask {study.names[-1]} alone.", promise.statement, *_unpromised(study))
    return Recommendation(
        sentences=sentences,
        # A promise says more, and at a level of its own.
        non_inferiority=f"Against {study.names[-1]} alone: {inferior}." if inferior and promise is None else "",
        outlook="" if promise is None else promise.outlook,
        elsewhere=tuple(_elsewhere(study)),
        warnings=study.notes,
    )


def _how(study: Study) -> str:
    """How the promised policy was measured, as a clause."""
    assert study.guarantee is not None
    where = "the fifth"
    if study.reported_on < study.guarantee.certified_on:
        where += f" as far as it is reported ({study.reported_on:,} questions in all)"
    return f"Certified on four fifths of them and measured on {where}, five times over"


def _unpromised(study: Study) -> tuple[str, ...]:
    """The policy that is best where it was chosen, which promises nothing, and how it does on other questions."""
    goal, last = study.goal, study.names[-1]
    lies = f"lies at most {in_points(goal.loss)} below {last} on them"
    keeps = lies if goal.promised else f"is right on at least {100 * study.limit:g} % of them"
    wanted = {
        "cost": f"the cheapest policy that {keeps}",
        "accuracy": f"the most accurate policy that costs at most {100 * study.limit:g} % of {last} alone",
        "price": f"the policy of the highest accuracy − {study.limit:g} × cost",
    }[goal.objective]
    if goal.promised and study.unpromised.policy.places == (len(study.names) - 1,):
        return (f"On the {study.chosen_on:,} questions that choose, too, nothing cheaper that was tried {lies}.",)
    words = study.unpromised.policy.in_words(study.names)
    start = "Not promised, and so not recommended: chosen" if goal.promised else "Nothing is promised of this: chosen"
    return (
        f"{start} on {study.chosen_on:,} questions as {wanted}: {words}.",
        f"On {study.unpromised.reported.questions:,} others {_measured(study, False)}",
    )


def _measured(study: Study, promised: bool) -> str:
    found, last = (study.chosen if promised else study.unpromised).reported, study.names[-1]
    unit = UNITS[study.unit].split(" (")[0]
    level = f"{100 * found.confidence:g} % interval "
    return (
        f"it is right {_span(found.accuracy, level)} of the time and {last} alone "
        f"{100 * study.singles[-1][1]:.1f} %, a difference of {100 * found.difference.estimate:+.2f} points "
        f"({100 * found.difference.low:+.2f} to {100 * found.difference.high:+.2f}); it costs "
        f"{_span(found.cost_ratio)} of what {last} alone costs, in the {study.goal.ledger} ledger, counted in {unit}."
    )


def _elsewhere(study: Study) -> Iterator[str]:
    """For each data but the reported questions whether they look like those that the policy rests on."""
    promise = study.guarantee if study.guarantee is not None and study.guarantee.holds else None
    rests_on = "chose the policy" if study.guarantee is None else "certify"
    for evaluation in study.evaluations[1:]:
        test = evaluation.difference
        if test is None:
            continue
        found = (
            f"Kolmogorov-Smirnov, {test.largest.confidence} of {test.largest.model} first: distance "
            f"{test.largest.distance:.2f}; p {_p(test.p)} over {test.compared} "
            f"confidence{'s' * (test.compared != 1)}, at level {LEVEL:g}"
        )
        if not test.shown:
            yield (
                f"{evaluation.name}: the confidences are not shown to be distributed otherwise than on the questions "
                f"that {rests_on} ({found}), which does not show that they are distributed alike."
            )
        elif promise is None:
            of_another_kind = ": what the thresholds keep may be of another kind" if study.guarantee is None else ""
            yield (
                f"{evaluation.name}: the confidences are distributed otherwise than on the questions that {rests_on} "
                f"({found}){of_another_kind}."
            )
        else:
            fewest = fewest_questions(promise.epsilon, promise.delta)
            yield (
                f"{evaluation.name}: the confidences are distributed otherwise than on the questions that {rests_on} "
                f"({found}). The promise does not reach there. --recertify takes labelled questions of this kind: "
                f"{fewest:,} certify a policy that neither gains nor loses any of them; one that loses may take more."
            )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _span(value: Interval, level: str = "") -> str:
    return f"{100 * value.estimate:.1f} % ({level}{100 * value.low:.1f} to {100 * value.high:.1f})"
