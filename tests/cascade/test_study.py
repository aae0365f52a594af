"""Studies and evaluations: nothing reported is of the questions that chose it, and what is reported is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.expected_utility import ExpectedUtilityPolicy
from cascade.policies.ledgers import pass_costs
from cascade.policies.oracle import OraclePolicy
from cascade.policies.thresholds import ThresholdPolicy
from cascade.scores.arrays import ChainScores, parts
from cascade.simulation.evaluation import difference, evaluate, shifts
from cascade.simulation.guarantee import certification
from cascade.simulation.simulator import play
from cascade.simulation.study import layer_point, study
from cascade.simulation.tuning import Goal, StudyTuner, limit_for
from tests.cascade.scored import changed, scored


def made_up(questions: int = 2000, seed: int = 0, harder: float = 0.0, probes: bool = True) -> ChainScores:
    """Three calibrated models on questions of known ease."""
    rng = np.random.default_rng(seed)
    ease, models = rng.normal(-harder, 1, questions), []
    for i in range(3):
        odds = 2 * ease + 1.2 * i
        p_ik = expit(odds + rng.normal(0, 1, questions)) if probes and i < 2 else None
        right = rng.random(questions) < expit(odds)
        models.append(scored(f"m{i}", right, expit(odds), p_ik, parameters=4**i, exit_share=0.5, num_layers=4))
    subjects = np.where(ease > 0, "easy", "hard")
    return ChainScores(tuple(f"{seed}-{i}" for i in range(questions)), tuple(models), None, subjects)


@pytest.fixture(scope="module")
def halves() -> list[ChainScores]:
    return parts(made_up(), (0.5, 0.5))


@pytest.fixture(scope="module")
def found(halves):
    return study(*halves, Goal(epsilon=0.05), others={"harder": made_up(seed=1, harder=1.5)})


def test_every_kind_of_policy_is_reported_on_the_other_half(halves, found):
    names = [m.policy.name for m in found.policies]
    assert names[1:] == [
        "P(IK) + P(T)",
        "P(T)",
        "P(IK)",
        "fused P(IK), P(T)",
        "expected utility",
        "random mixing",
        "oracle",
    ]
    report_on = halves[1]
    costs = pass_costs(report_on)
    for measured in found.policies[1:]:
        outcome = measured.policy.route(report_on)
        who = [next(i for i in range(3) if outcome[i, q] == 3) for q in range(len(report_on))]
        right = np.mean([report_on.models[i].correct[q] for q, i in enumerate(who)])
        assert measured.reported.accuracy.estimate == pytest.approx(right)
        if measured.policy.name == "P(T)":
            asked = sum(costs.whole[i, 0] * (outcome[i] > 0).sum() for i in range(3))
            assert measured.reported.cost_ratio.estimate == pytest.approx(asked / costs.whole[-1].sum())


def test_what_is_best_without_a_promise_holds_its_limit_where_it_was_chosen_and_the_oracle_beats_it(found):
    assert found.unpromised.chosen[0] >= found.limit - 1e-9
    runnable = [m for m in found.policies[1:] if m.policy.name not in ("random mixing", "oracle")]
    allowed = [m for m in runnable if m.chosen[0] >= found.limit - 1e-9]
    assert found.unpromised.chosen[1] == min(m.chosen[1] for m in allowed)
    oracle = found.policies[-1].reported
    assert oracle.accuracy.estimate >= max(m.reported.accuracy.estimate for m in runnable)


def test_random_mixing_meets_the_goal_between_two_models(halves, found):
    choose_on, _ = halves
    mixed = found.policies[-2]
    right = choose_on.correct.mean(axis=1)
    assert mixed.chosen[0] == pytest.approx(np.dot(mixed.policy.shares, right))
    assert mixed.chosen[0] >= found.limit - 1e-9
    assert sum(share > 0 for share in mixed.policy.shares) <= 2
    assert mixed.reported.cost_ratio.estimate > found.unpromised.reported.cost_ratio.estimate


def test_what_is_recommended_is_promised_and_measured_out_of_fold(halves, found):
    promise = found.guarantee
    assert promise.holds and found.chosen.policy == promise.point.policy and found.policies[0] is found.chosen
    assert (found.chosen_on, found.reported_on, promise.certified_on) == tuple(len(h) for h in (*halves, halves[1]))
    written = found.to_json()
    assert written["chosen"]["to_run"] == written["guarantee"]["policy"]
    # Each fifth of the reported questions under what the other four fifths certify, by hand.
    apart = halves[0], pass_costs(halves[0])
    made = certification(halves[1], pass_costs(halves[1]), found.goal, *apart)
    right = np.concatenate(
        [play(halves[1].take(rows), policy).correct for rows, policy in made.out_of_fold().pieces(halves[1])]
    )
    assert found.chosen.reported.accuracy.estimate == pytest.approx(right.mean())
    inside = play(halves[1], found.chosen.policy).correct.mean()
    assert found.chosen.chosen[0] == pytest.approx(inside)


def test_where_nothing_can_be_promised_the_last_model_is_recommended(halves):
    few = [half.take(np.arange(60)) for half in halves]
    found = study(*few, Goal())
    assert not found.guarantee.holds
    assert found.chosen.policy == ThresholdPolicy.alone(2)
    reported = found.chosen.reported
    assert (reported.difference.low, reported.difference.high, reported.cost_ratio.estimate) == (0, 0, 1)
    assert found.unpromised.reported.cost_ratio.estimate < 1
    assert found.to_json()["chosen"]["to_run"]["models"] == ["m2"]


def test_more_questions_may_certify_than_report(halves):
    whole = made_up()
    found = study(*halves, Goal(epsilon=0.05), certify_on=whole)
    assert found.guarantee.certified_on == 2000 and found.reported_on == len(halves[1])
    alone = certification(whole, pass_costs(whole), found.goal, None, None)
    assert found.chosen.policy == alone.policy(alone.found)


def test_nothing_is_promised_where_a_limit_or_another_objective_is_given(halves):
    for goal in (Goal(limit=0.6), Goal("accuracy"), Goal("price", 0.2)):
        found = study(*halves, goal)
        assert found.guarantee is None and found.chosen is found.unpromised


@pytest.mark.parametrize(
    ("objective", "limit"), [("accuracy", 0.6), ("cost", 0.6), ("price", 0.2), ("accuracy", None), ("price", None)]
)
def test_each_objective_keeps_its_limit(halves, objective, limit):
    made = study(*halves, Goal(objective, limit, ledger="early-exit"))
    accuracy, cost = made.chosen.chosen
    if objective == "accuracy":
        assert cost <= (limit or 0.5) + 1e-9
    if objective == "cost":
        assert accuracy >= limit
    if objective == "price":
        worth = [a - (limit or 0.1) * c for a, c in (m.chosen for m in made.policies[:-2])]
        assert accuracy - (limit or 0.1) * cost == pytest.approx(max(worth))


def test_what_was_fitted_is_measured_on_questions_that_did_not_fit_it():
    """P(T) says nothing: a fit can only learn chance, and out of fold chance gains nothing."""
    rng = np.random.default_rng(0)
    gained = []
    for seed in range(20):
        right = rng.random((2, 60)) < 0.5
        models = (scored("s", right[0], rng.random(60), parameters=1), scored("l", right[1], parameters=10))
        chain = ChainScores(tuple(f"{seed}-{i}" for i in range(60)), models)
        tuner = StudyTuner(chain, pass_costs(chain), Goal(unit="flops"), 0)
        (option,) = ExpectedUtilityPolicy.options(tuner)
        point = next(p for p in option.points if p.policy.price < 0.002)  # nearly as accurate as it can be
        inside = play(chain, point.policy).correct.mean()
        gained.append((inside - right[1].mean(), point.accuracy - right[1].mean()))
        by_hand = []
        for part in range(5):
            fitted = ExpectedUtilityPolicy.fit(chain.take(tuner.part != part), point.policy.costs, point.policy.price)
            by_hand += play(chain.take(tuner.part == part), fitted).correct.tolist()
        assert point.accuracy == pytest.approx(np.mean(by_hand))
    inside, outside = np.mean(gained, axis=0)
    assert inside > 0.03 > abs(outside)


def test_the_limit_is_the_promised_loss_below_the_last_model(halves):
    last = halves[0].models[-1].correct.mean()
    assert limit_for(Goal(), halves[0]) == pytest.approx(last - 0.01)
    assert limit_for(Goal(epsilon=0.03), halves[0]) == pytest.approx(last - 0.03)
    assert limit_for(Goal(limit=0.3), halves[0]) == 0.3


def test_the_shift_is_scipys_and_is_warned_of_only_where_there_is_one(halves, found):
    own, harder = found.evaluations
    assert own.difference is None  # these questions certified it
    assert harder.difference.shown and harder.difference.compared == len(harder.shifts) == 5
    assert harder.difference.p == pytest.approx(min(1, 5 * min(s.p for s in harder.shifts)))
    chosen_on = halves[1]  # those that certified it
    shift = next(s for s in harder.shifts if (s.model, s.confidence) == ("m0", "P(T)"))
    theirs = stats.ks_2samp(made_up(seed=1, harder=1.5).models[0].signals.p_t, chosen_on.models[0].signals.p_t)
    assert shift.distance == pytest.approx(theirs.statistic)


def test_questions_of_one_kind_are_said_to_differ_no_more_often_than_the_level_and_others_are():
    """With ties, as confidences saturate, and with all of a chain's confidences dependent."""
    here, said = made_up(500), {0.0: 0, 0.4: 0}
    saturated = [changed(m, p_t=np.round(m.signals.p_t, 1)) for m in here.models]
    here = replace(here, models=tuple(saturated))
    for harder in said:
        for seed in range(150):
            there = made_up(300, seed=seed + 1, harder=harder)
            there = replace(there, models=tuple(changed(m, p_t=np.round(m.signals.p_t, 1)) for m in there.models))
            said[harder] += difference(shifts(there, here)).shown
    assert said[0.0] <= stats.binom.ppf(0.999, 150, 0.01)
    assert said[0.4] > 120


def test_stages_add_up(halves):
    for policy in (ThresholdPolicy.whole([Thresholds(), Thresholds()]), ThresholdPolicy((1, 2), (Thresholds(),))):
        evaluation = evaluate("other", halves[1], policy, halves[0], "full-path", "flops")
        assert sum(s.answered for s in evaluation.stages) == evaluation.questions
        assert sum(s.right for s in evaluation.stages) == round(evaluation.row.accuracy * evaluation.questions)
        assert evaluation.stages[0].asked == evaluation.questions
        for before, after in zip(evaluation.stages, evaluation.stages[1:], strict=False):
            assert after.asked == before.asked - before.answered


def test_accuracy_is_estimated_without_labels_where_confidences_are_calibrated(halves):
    """P(T) here is the true probability: the estimate is right on easy and on hard questions."""
    policy = ThresholdPolicy.whole([Thresholds(0.8, None), Thresholds(0.8, None)])
    for harder in (0.0, 1.0):
        other = made_up(4000, seed=3, harder=harder, probes=False)
        chosen_on = replace(halves[0], models=tuple(changed(m, p_ik=None) for m in halves[0].models))
        found = evaluate("other", other, policy, chosen_on, "full-path", "flops")
        assert abs(found.estimate.error) < 3
        unlabelled = replace(
            other, labelled=False, models=tuple(changed(m, correct=np.zeros(4000, bool)) for m in other.models)
        )
        blind = evaluate("other", unlabelled, policy, chosen_on, "full-path", "flops")
        assert blind.estimate.accuracy == found.estimate.accuracy
        assert blind.saved == found.saved
        assert blind.row is None and blind.estimate.error is None and not blind.qualities


def test_a_policy_is_played_once_with_labels_or_without(halves, monkeypatch):
    """And what is saved is what a loop over the questions adds up to."""
    policy = ThresholdPolicy.whole([Thresholds(0.8, 0.5), Thresholds(0.8, None)])
    played = []
    monkeypatch.setattr(ThresholdPolicy, "route", lambda *a, real=ThresholdPolicy.route: played.append(a) or real(*a))
    here = halves[1]
    unlabelled = replace(here, labelled=False)
    costs = pass_costs(here)
    for chain in (here, unlabelled):
        played.clear()
        saved = evaluate("other", chain, policy, halves[0], "full-path", "flops").saved
        assert sum(scores is chain for _, scores in played) == 1
        cost = 0.0
        for q, column in enumerate(policy.route(here).T):
            cost += sum(costs.whole[i, q] for i in range(3) if column[i])
        assert saved["flops"]["full-path"] == pytest.approx(1 - cost / costs.whole[-1].sum())


def test_subjects_are_the_whole_in_parts(found, halves):
    own = found.evaluations[0]
    assert {s.name for s in own.subjects} == {"easy", "hard"}
    reported = halves[1]
    assert sum(s.questions * s.accuracy for s in own.subjects) == pytest.approx(own.questions * own.row.accuracy)
    easy = next(s for s in own.subjects if s.name == "easy")
    last = reported.models[-1].correct[reported.subjects == "easy"]
    assert easy.last == pytest.approx(last.mean())


def test_an_earlier_layer_is_cheaper_where_the_probe_is_as_good(halves):
    """The same P(IK) at a quarter of the way and at the end: only the price differs."""
    choose_on, report_on = halves
    goal = Goal("price", 0.3)

    def at(share: float):
        moved = [
            replace(half, models=tuple(changed(m, exit_share=share) for m in half.models))
            for half in (choose_on, report_on)
        ]
        return layer_point(*moved, goal, [1, 1], share)

    early, late = at(0.25), at(1.0)
    assert early.auroc == late.auroc
    worth = [p.measured.chosen[0] - 0.3 * p.measured.chosen[1] for p in (early, late)]
    assert worth[0] > worth[1]


def test_too_few_questions_and_impossible_goals_are_refused(halves):
    few = halves[0].take(np.arange(5))
    with pytest.raises(CascadeError, match="at least 10 questions"):
        study(few, halves[1], Goal())
    with pytest.raises(CascadeError, match="accuracy floor of at most"):
        study(*halves, Goal("cost", 0.999))
    for wrong in ({"ledger": "x"}, {"objective": "x"}, {"margin": 0.0}, {"limit": float("nan")}):
        with pytest.raises(CascadeError, match=next(iter(wrong))):
            Goal(**wrong)


def test_the_oracle_is_a_bound_on_every_evaluation(found, halves):
    reported = halves[1]
    oracle = evaluate("own", reported, OraclePolicy(), halves[0], "full-path", "flops")
    assert oracle.row.accuracy == pytest.approx(reported.correct.any(axis=0).mean())
    assert oracle.row.accuracy >= found.evaluations[0].row.accuracy


def test_data_that_lack_what_the_policy_asks_are_refused(halves, found):
    policy = ThresholdPolicy.whole([Thresholds(0.8, 0.5), Thresholds(0.8, None)])
    lacking = replace(halves[1], models=tuple(changed(m, p_ik=None) for m in halves[1].models))
    with pytest.raises(CascadeError, match="other to have p_ik for 'm0'"):
        evaluate("other", lacking, policy, halves[0], "full-path", "flops")
    # What the policy does not ask may be missing.
    bare = ThresholdPolicy.whole([Thresholds(0.8, None), Thresholds(0.8, None)])
    assert abs(evaluate("other", lacking, bare, halves[0], "full-path", "flops").estimate.error) < 5


def test_a_last_model_without_confidences_is_estimated_on_what_it_is_sent(halves):
    """The large model answers the hard questions: its accuracy on all of them would promise too much."""
    blind = [replace(h, models=(*h.models[:-1], changed(h.models[-1], p_t=None))) for h in halves]
    policy = ThresholdPolicy.whole([Thresholds(0.9, None), Thresholds(0.9, None)])
    made = evaluate("other", blind[1], policy, blind[0], "full-path", "flops")
    assert abs(made.estimate.error) < 3


def test_signals_that_miss_the_limit_do_not_stop_those_that_reach_it():
    """P(T) knows exactly who is right and P(IK) nothing: only the first gets above the large model."""
    rng = np.random.default_rng(0)
    right = rng.random((2, 400)) < 0.7
    models = (
        scored("s", right[0], right[0].astype(float), rng.random(400), parameters=10),
        scored("l", right[1], None, parameters=100),
    )
    chain = ChainScores(tuple(map(str, range(400))), models)
    names = [m.policy.name for m in study(*parts(chain, (0.5, 0.5)), Goal("cost", 0.85)).policies]
    assert "P(T)" in names
    assert "P(IK)" not in names


def with_reader(chain: ChainScores, **more) -> ChainScores:
    small = changed(chain.models[0], p_ik_reader=chain.models[0].signals.p_t, reader="encoder", **more)
    return replace(chain, models=(small, *chain.models[1:]))


def test_a_reader_competes_where_its_cost_is_known_and_is_left_out_where_not(halves):
    known = study(*(with_reader(h, reader_parameters=1) for h in halves), Goal())
    assert {"reader", "reader + P(T)"} <= {m.policy.name for m in known.policies}
    unknown = study(*(with_reader(h) for h in halves), Goal())
    assert not any("reader" in m.policy.name for m in unknown.policies)
    assert any("reader + P(T) is left out" in note for note in unknown.notes)
    alone = [replace(with_reader(h, reader_parameters=1)) for h in halves]
    alone = [replace(h, models=tuple(changed(m, p_t=None, p_ik=None) for m in h.models)) for h in alone]
    assert "reader" in [m.policy.name for m in study(*alone, Goal()).policies]


def test_scores_without_costs_count_calls_of_the_last_model_and_say_so(halves):
    bare = [replace(h, models=tuple(changed(m, parameters=None) for m in h.models)) for h in halves]
    made = study(*bare, Goal())
    assert made.unit == "calls"
    assert any("say nothing of cost" in note for note in made.notes)
    last = [s for s in made.evaluations[0].stages if s.model == "m2"]
    asked = last[0].asked if last else 0
    assert made.chosen.reported.cost_ratio.estimate == pytest.approx(asked / made.reported_on)


def test_a_last_model_that_costs_nothing_is_refused(halves):
    free = [
        replace(h, models=tuple(changed(m, parameters=None, seconds=np.zeros(len(h))) for m in h.models))
        for h in halves
    ]
    with pytest.raises(CascadeError, match="to cost something in seconds"):
        study(*free, Goal())


def test_a_threshold_below_1_never_reads_as_1():
    assert str(Thresholds(0.999996, None)) == "P(T) ≥ 0.999996"
    assert str(Thresholds(1.0, 0.12345678)) == "P(IK) ≥ 0.1235, P(T) ≥ 1"


def test_every_policy_is_written_so_that_it_can_be_run(found):
    for measured in found.to_json()["policies"][:-2]:
        wanted = {"P(T)": "thresholds", "fused P(IK), P(T)": "fused", "expected utility": "right"}
        assert wanted.get(measured["policy"], "models") in measured["to_run"]
