"""A promise is checked by drawing from a population whose true loss is known, and by plain loops over a ladder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from cascade.errors import CascadeError
from cascade.policies.expected_utility import ExpectedUtilityPolicy
from cascade.policies.fused import FusedPolicy
from cascade.policies.ladders import LEVELS, Steps, first_reached
from cascade.policies.ledgers import LEDGERS, pass_costs
from cascade.policies.registry import POLICIES
from cascade.policies.thresholds import ThresholdPolicy
from cascade.policies.tuning import Goal
from cascade.scores.arrays import ChainScores
from cascade.simulation.climbing import certify, fewest_questions
from cascade.simulation.guarantee import Certification, certification, guarantee
from cascade.simulation.simulator import play, spent
from cascade.simulation.tuning import StudyTuner
from cascade.statistics.tango import critical_value, score
from experiments.promises import best, draw, population, promised, unpromised
from tests.cascade.scored import changed, scored
from tests.profile import LONG

GOAL = Goal(unit="flops", ledger="early-exit")


def made(questions: int, seed: int = 0, reader: bool = False) -> ChainScores:
    """Three models with both confidences, the last with neither."""
    rng = np.random.default_rng(seed)
    ease, models = rng.normal(size=questions), []
    for i in range(3):
        odds = 2 * ease + 1.5 * i
        p_t, p_ik = expit(odds + rng.normal(size=(2, questions)))
        signals = {"p_t": p_t, "p_ik": p_ik} if i < 2 else {}
        if reader and i == 0:
            signals |= {"p_ik_reader": expit(odds + rng.normal(size=questions)), "reader_parameters": 1}
        right = rng.random(questions) < expit(odds)
        models.append(scored(f"m{i}", right, **signals, parameters=4**i, exit_share=0.5, probe_parameters=1))
    return ChainScores(tuple(f"{seed}-{i}" for i in range(questions)), tuple(models))


def ladders_of(chain: ChainScores, goal: Goal = GOAL) -> list:
    return [ladder for kind in POLICIES for ladder in kind.ladders(StudyTuner(chain, pass_costs(chain), goal))]


def test_a_promise_is_broken_no_more_often_than_said_and_saves_most_of_what_there_is():
    everyone, draws = population(), 1000 if LONG else 200
    kept = draw(everyone, promised, 800, draws, epsilon=0.02, delta=0.1)
    # A binomial test: a promise broken a tenth of the time fails it once in a thousand.
    most = stats.binom.ppf(0.999, draws, 0.1) / draws
    assert kept.broken <= most
    assert kept.given_up < 0.2  # a promise never made is never broken
    assert kept.saved > 0.6 * best(everyone, 0.02)
    # The bound can be missed: at another level, and by thresholds of which nothing is promised, it is.
    assert draw(everyone, promised, 800, draws, epsilon=0.02, delta=0.4).broken > most
    assert draw(everyone, unpromised, 800, draws, epsilon=0.02, delta=0.1).broken > 0.3


@pytest.mark.parametrize("ledger", LEDGERS)
def test_a_ladder_counts_what_playing_each_of_its_policies_does(ledger):
    chain = made(150, reader=True)
    costs = pass_costs(chain)
    last = chain.models[-1].correct
    ladders = ladders_of(chain)
    asked = {ladder.name for ladder in ladders}
    assert asked == {
        "P(IK) + P(T)",
        "P(T)",
        "P(IK)",
        "reader + P(T)",
        "reader",
        "fused P(IK), P(T)",
        "expected utility",
    }
    for ladder in ladders:
        tally = ladder.tally(chain, costs, ledger)
        for rung in [0, len(ladder) // 3, len(ladder) // 2, (3 * len(ladder)) // 4, len(ladder) - 1]:
            policy = ladder.policy(rung)
            played = play(chain, policy)
            right = played.correct
            assert tally.gains[rung] == sum(a and not b for a, b in zip(right, last, strict=True))
            assert tally.losses[rung] == sum(b and not a for a, b in zip(right, last, strict=True))
            paid = spent(chain, policy, played.outcome, costs, ledger).sum()
            assert tally.cost[rung] == pytest.approx(paid), (ladder.name, rung)
        assert tally.last_cost == costs.whole[-1].sum()


@pytest.mark.parametrize(
    "limits", [LEVELS, np.full(7, 0.5), np.array([1.0, 1.0, 0.3, 0.0]), np.array([1 - 1e-15, 1e-300])]
)
def test_the_first_limit_that_is_reached_is_the_one_a_loop_finds(limits):
    rng = np.random.default_rng(0)
    near = np.concatenate([limits, np.nextafter(limits, 0), np.nextafter(limits, 1)])
    odd = np.array([0.0, 1.0, np.nan, -np.nan, 5e-324, 1 - 2**-53, 2**-60])
    values = np.concatenate([near[near <= 1], odd, rng.random(500), 1 - 10 ** rng.uniform(-17, 0, 500)])
    found = first_reached(limits, values)
    for value, place in zip(values, found, strict=True):
        assert place == next((i for i, limit in enumerate(limits) if value >= limit), len(limits))


def test_a_ladder_goes_from_almost_nothing_to_everything():
    chain = made(400)
    for ladder in ladders_of(chain):
        if isinstance(ladder, Steps) or "reader" in ladder.name:
            continue
        first, final = (play(chain, ladder.policy(rung)).who for rung in (0, len(ladder) - 1))
        assert (first == 2).mean() > 0.9
        if "P(IK) + P(T)" not in ladder.name:
            assert (final == ladder.places[0]).all()


def test_tests_stop_at_the_first_rung_that_fails():
    chain = made(900)
    goal = Goal(unit="flops", epsilon=0.03)
    for ladder in ladders_of(chain):
        tally = ladder.tally(chain, pass_costs(chain), goal.ledger)
        found = certify(tally, goal.loss, goal.delta)
        passed, cheapest, rung = 0, 1.0, None
        for i in range(len(ladder)):
            if float(score(tally.gains[i], tally.losses[i], 900, -0.03)) < critical_value(900, 0.03, 0.1):
                break
            passed += 1
            if tally.cost[i] / tally.last_cost < cheapest - 1e-9:
                cheapest, rung = tally.cost[i] / tally.last_cost, i
        assert (found.passed, found.rung) == (passed, rung)
        assert found.cost == pytest.approx(cheapest)


def test_no_label_of_a_certifying_question_chooses_the_ladder():
    chain, apart = made(500), made(500, seed=1)
    rng = np.random.default_rng(0)
    shuffled = replace(chain, models=tuple(replace(m, correct=rng.permutation(m.correct)) for m in chain.models))
    for learn_on in (None, apart):
        costs = None if learn_on is None else pass_costs(learn_on)
        found = [certification(c, pass_costs(c), GOAL, learn_on, costs).ladder for c in (chain, shuffled)]
        assert found[0].name == found[1].name
        assert all(str(found[0].policy(i)) == str(found[1].policy(i)) for i in range(0, len(found[0]), 50))


def test_what_has_to_be_fitted_is_offered_only_with_labels_apart():
    chain = made(300)
    hidden = replace(chain, labelled=False)
    kinds = {type(ladder.policy(len(ladder) // 2)) for ladder in ladders_of(hidden)}
    assert kinds == {ThresholdPolicy}
    assert {FusedPolicy, ExpectedUtilityPolicy} < {type(x.policy(len(x) // 2)) for x in ladders_of(chain)}


def test_each_fold_is_measured_by_what_the_others_certify():
    """Another label in a fold changes no policy but those of the other folds."""
    chain = made(600)
    goal = Goal(unit="flops", epsilon=0.05)
    found = certification(chain, pass_costs(chain), goal, None, None)
    folds = found.out_of_fold()
    part = np.array([folds.part[name] for name in chain.question_ids])
    assert sorted(np.bincount(part)) == [120] * 5
    for place, policy in enumerate(folds.policies):
        rest = chain.take(part != place)
        alone = Certification(rest, pass_costs(rest), goal, found.ladder, found.tried, found.apart)
        assert policy == alone.policy(alone.found)
    # Every question by its own policy, and charged for what that asks.
    outcome = folds.route(chain)
    cost = spent(chain, folds, outcome, pass_costs(chain), "early-exit")
    for place, policy in enumerate(folds.policies):
        rows = np.flatnonzero(part == place)
        here = chain.take(rows)
        assert (outcome[:, rows] == policy.route(here)).all()
        assert cost[rows] == pytest.approx(spent(here, policy, policy.route(here), pass_costs(here), "early-exit"))


def test_what_cannot_be_promised_says_how_many_questions_would():
    everyone = population(4000)
    few = everyone.take(np.arange(40))
    goal = Goal(unit="flops")
    none = guarantee(certification(few, pass_costs(few), goal, None, None))
    assert not none.holds
    assert none.point.policy == ThresholdPolicy.alone(1) and none.point.cost == 1
    # Of 229 questions none is lost with a probability of 0.99²²⁹ > 0.1 by a policy that loses one in a hundred.
    assert 230 <= none.questions_needed < 2000
    assert f"about {none.questions_needed:,.0f} would do" in none.statement
    many = guarantee(certification(everyone, pass_costs(everyone), goal, None, None))
    assert many.holds and many.statement.startswith("Promised on questions like these: at most 1 point")
    # Its cost is of the questions that certify, as a plain loop has it: 10 for each, 100 for those passed on.
    (limit,) = many.point.policy.thresholds
    passed_on = sum(p < limit.p_t for p in everyone.models[0].signals.p_t)
    assert many.point.cost == pytest.approx((10 * 4000 + 100 * passed_on) / (100 * 4000))
    half, twice = many.foreseen
    assert (half.questions, twice.questions) == (2000, 8000)
    assert half.saved <= 1 - many.point.cost + 0.02 <= twice.saved + 0.04


@pytest.mark.parametrize(("epsilon", "delta"), [(0.01, 0.1), (0.05, 0.2)])
def test_the_fewest_questions_that_certify_are_those_of_a_policy_that_loses_nothing(epsilon, delta):
    fewest = fewest_questions(epsilon, delta)
    for n, certified in ((fewest, True), (fewest - 1, False)):
        same = np.ones(n, bool)
        models = scored("s", same, np.linspace(0, 1, n), parameters=1), scored("l", same, parameters=10)
        chain = ChainScores(tuple(map(str, range(n))), models)
        goal = Goal(unit="flops", epsilon=epsilon, delta=delta)
        assert guarantee(certification(chain, pass_costs(chain), goal, None, None)).holds == certified


@pytest.mark.parametrize(("epsilon", "delta"), [(0.01, 1e-6), (0.02, 0.01), (0.3, 0.001)])
def test_the_fewest_questions_are_found_at_small_levels_too(epsilon, delta):
    fewest = fewest_questions(epsilon, delta)
    for n, certified in ((fewest, True), (fewest - 1, False)):
        assert (float(score(0, 0, n, -epsilon)) >= critical_value(n, epsilon, delta)) == certified


def pair_of(small: np.ndarray, last: np.ndarray, p_t: np.ndarray, small_costs: int = 1) -> ChainScores:
    """Two models; the last costs 10."""
    models = scored("s", small, p_t, parameters=small_costs), scored("l", last, parameters=10)
    return ChainScores(tuple(map(str, range(len(p_t)))), models)


def asked_of(chain: ChainScores, goal: Goal):
    return guarantee(certification(chain, pass_costs(chain), goal, None, None))


def test_no_number_of_questions_is_said_only_where_none_would_do():
    """A small model whose surest answers are wrong, and one that is only rarely so."""
    n = 1000
    p_t = np.linspace(0.5, 0.999, n)
    last = np.ones(n, bool)
    worst = pair_of(p_t < 0.9, last, p_t)
    found = asked_of(worst, Goal(unit="flops"))
    assert np.isinf(found.questions_needed) and "no number of them would do" in found.statement
    rarely = replace(worst, models=(changed(worst.models[0], correct=np.arange(n) % 125 > 0), worst.models[1]))
    found = asked_of(rarely, Goal(unit="flops", delta=0.0005))
    assert not found.holds and 1000 < found.questions_needed < 10_000


@pytest.mark.parametrize("seed", range(30))
def test_what_is_said_of_other_numbers_of_questions_is_so_where_the_same_questions_come_again(seed):
    """Half, twice, and as many as would do: the questions of these shares themselves, certified."""
    rng = np.random.default_rng(seed)
    n, level = int(rng.choice([40, 100, 250, 600])), float(rng.choice([0.02, 0.1, 0.4, 0.8]))
    epsilon = float(rng.choice([0.01, 0.03, 0.2]))
    p_t = np.ones(n) if seed % 5 == 0 else rng.beta(4, 1, n)
    last = rng.random(n) < 0.7
    small = np.where(rng.random(n) < p_t * rng.choice([0.7, 1.0]), last, rng.random(n) < 0.3)
    goal = Goal(unit="flops", epsilon=epsilon, delta=level)

    def again(times: int) -> ChainScores:
        return pair_of(np.repeat(small, times), np.repeat(last, times), np.repeat(p_t, times))

    found = asked_of(again(2), goal)
    here, twice = asked_of(again(1), goal), asked_of(again(4), goal)
    for seen, there in zip(found.foreseen, (here, twice), strict=True):
        assert seen.questions == there.certified_on
        assert seen.saved == pytest.approx(1 - there.point.cost)
    if here.holds:
        assert np.isnan(here.questions_needed)
    elif np.isinf(here.questions_needed):
        assert not asked_of(again(300), goal).holds and "would do" in here.statement
        assert "no number" in here.statement
    else:
        times = int(np.ceil(here.questions_needed / n))
        assert times > 1 and (times > 1000 or asked_of(again(times + 1), goal).holds)
        assert f"about {here.questions_needed:,.0f} would do" in here.statement


def test_a_loss_of_just_as_much_as_is_promised_needs_more_than_any_number():
    n = 700
    small, p_t = np.ones(n, bool), np.ones(n)
    small[:49] = False  # 0.07 of them, where 0.07 · 700 is not 49 in floating point
    found = asked_of(pair_of(small, np.ones(n, bool), p_t), Goal(unit="flops", epsilon=0.07))
    assert np.isinf(found.questions_needed)


def test_where_nothing_on_the_ladder_costs_less_no_number_of_questions_is_spoken_of():
    chain = made(400)
    dear = pair_of(chain.models[0].correct, chain.models[2].correct, chain.models[0].signals.p_t, small_costs=10)
    found = asked_of(dear, Goal(unit="flops"))
    assert not found.holds and found.cheaper == 0
    assert "(P(T), s → l) nothing costs less" in found.statement and "would do" not in found.statement


def test_a_promised_policy_that_gains_lies_above_and_a_promise_of_almost_1_does_not_read_as_1():
    n, rng = 500, np.random.default_rng(0)
    last = rng.random(n) < 0.6
    found = asked_of(pair_of(np.ones(n, bool), last, rng.random(n)), Goal(unit="flops"))
    assert f"lies {100 * (1 - last.mean()):.2f} points above and costs 10.0 % as much" in found.statement
    found = asked_of(pair_of(last, last, rng.random(n)), Goal(unit="flops"))
    assert "on these it is right as often and costs 10.0 %" in found.statement
    surely = asked_of(pair_of(last, last, rng.random(n)), Goal(unit="flops", delta=1e-7))
    assert "with probability 0.9999999 or more" in surely.statement


def test_that_the_certifying_questions_confidences_chose_the_ladder_is_said():
    chain, apart = made(500), made(500, seed=1)
    goal = Goal(unit="flops", epsilon=0.1)
    alone = asked_of(chain, goal)
    assert f"their confidences, and no answer, chose one of {alone.ladders} ladders" in alone.statement
    told = guarantee(certification(chain, pass_costs(chain), goal, apart, pass_costs(apart)))
    assert told.holds and "chose one of" not in told.statement
    one = asked_of(population(2000), goal)
    assert one.ladders == 1 and "chose one of" not in one.statement


@pytest.mark.parametrize("kind", ["never differ", "ties", "all 1", "five questions"])
def test_degenerate_logs_get_a_true_sentence(kind):
    n = 5 if kind == "five questions" else 400
    rng = np.random.default_rng(0)
    right = rng.random(n) < 0.7
    small = right if kind != "all 1" else rng.random(n) < 0.5
    p_t = np.full(n, {"ties": 0.8, "all 1": 1.0}.get(kind, 0.0)) if kind != "never differ" else rng.random(n)
    chain = ChainScores(
        tuple(map(str, range(n))), (scored("s", small, p_t, parameters=1), scored("l", right, parameters=10))
    )
    found = guarantee(certification(chain, pass_costs(chain), Goal(unit="flops"), None, None))
    if kind in ("never differ", "ties"):
        assert found.holds and found.point.cost == pytest.approx(0.1)
    else:
        assert not found.holds and found.point.policy == ThresholdPolicy.alone(1)
    if kind == "all 1":
        assert "no number of them would do" in found.statement
    if kind == "five questions":
        assert found.questions_needed > 100


def test_questions_without_labels_certify_nothing():
    chain = replace(made(50), labelled=False)
    with pytest.raises(CascadeError, match="labels to certify"):
        certification(chain, pass_costs(chain), GOAL, None, None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epsilon": 0}, "`epsilon` to be between"),
        ({"delta": 1}, "`delta` to be between"),
        ({"epsilon": float("nan")}, "`epsilon` to be between"),
        ({"epsilon": 0.02, "limit": 0.8}, "`epsilon` for the cheapest policy without a `limit`"),
        ({"epsilon": 0.02, "objective": "price"}, "`epsilon` for the cheapest policy without a `limit`"),
    ],
)
def test_what_cannot_be_promised_is_not_asked(flags, message):
    with pytest.raises(CascadeError, match=message):
        Goal(**flags)
