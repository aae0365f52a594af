"""The frontier against brute force over every combination of thresholds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.fused import calibrations
from cascade.policies.ledgers import LEDGERS, pass_costs
from cascade.policies.outcome import Outcome
from cascade.policies.random_mixing import Lots
from cascade.policies.thresholds import ThresholdPolicy, route
from cascade.policies.tuning import Goal, OutOfReach
from cascade.scores.arrays import ChainScores, sub_chains
from cascade.simulation import window
from cascade.simulation.frontier import choose, frontier
from cascade.simulation.grid import grid_sums
from cascade.simulation.quadrant import QuadrantSearch
from cascade.simulation.simulator import play, spent
from tests.cascade.scored import changed, scored

EARLY = {"P(T)": None, "P(IK) + P(T)": "p_ik", "reader + P(T)": "p_ik_reader"}
LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def chains(draw, most_models: int = 2) -> ChainScores:
    models, questions = draw(st.integers(2, most_models)), draw(st.integers(1, 10))

    def column(values) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=questions, max_size=questions)))

    made = tuple(
        scored(
            name=f"m{i}",
            correct=column(st.booleans()),
            p_t=column(LEVELS),
            p_ik=column(LEVELS),
            p_ik_reader=column(LEVELS),
            reader="r",
            reader_parameters=3,
            parameters=10 ** (i + 1),
            exit_share=draw(st.sampled_from([0.5, 0.75])),
            probe_parameters=draw(st.sampled_from([0, 1])),
        )
        for i in range(models)
    )
    return ChainScores(tuple(map(str, range(questions))), made)


def brute_force(chain: ChainScores, ledger: str, early: str | None) -> list[tuple[float, float]]:
    """(cost, accuracy) of every combination of thresholds of every sub-chain, one route() after another."""
    costs, points = pass_costs(chain), []
    for places in sub_chains(chain, shortest=1):
        options = []
        for place in places[:-1]:
            model = chain.models[place]
            first = [None] if early is None else sorted(set(getattr(model.signals, early)))
            options.append(
                [
                    {"p_t": b, "p_ik": None, **({early: a} if early else {})}
                    for a in first
                    for b in sorted(set(model.signals.p_t))
                ]
            )
        for limits in product(*options):
            policy = ThresholdPolicy(places, tuple(Thresholds(**limit) for limit in limits))
            played = play(chain, policy)
            cost = spent(chain, policy, played.outcome, costs, ledger).sum() / costs.whole[-1].sum()
            points.append((cost, played.correct.mean()))
    return points


@pytest.mark.parametrize("signals", EARLY)
@given(chain=chains(most_models=3))
def test_a_threshold_lies_midway_between_the_scores_that_it_parts(signals, chain):
    """A score that is a little off on another machine is then on the same side."""
    for point in frontier(chain, pass_costs(chain), "full-path", signals).candidates:
        for place, limits in zip(point.policy.places, point.policy.thresholds, strict=False):
            for name in ("p_t", "p_ik", "p_ik_reader"):
                limit, scores = getattr(limits, name), getattr(chain.models[place].signals, name)
                if limit is None or limit <= scores.min():
                    continue  # not asked, or keeps every question
                assert limit == (scores[scores < limit].max() + scores[scores > limit].min()) / 2


def hull_value(points, price):
    return max(accuracy - price * cost for cost, accuracy in points)


@given(
    chains(),
    st.sampled_from(LEDGERS),
    st.sampled_from(list(EARLY)),
)
def test_two_models_are_exact_at_every_price(chain, ledger, signals):
    found = frontier(chain, pass_costs(chain), ledger, signals, tolerance=0)
    every = brute_force(chain, ledger, EARLY[signals])
    for price in (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 100.0):
        ours = hull_value([(p.cost, p.accuracy) for p in found.vertices], price)
        assert ours == pytest.approx(hull_value(every, price), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(chains(most_models=3), st.sampled_from(LEDGERS))
def test_three_models_on_a_grid_of_all_their_values_are_exact_too(chain, ledger):
    """Five values a confidence: the quantile levels hold them all, so that nothing is left to polish."""
    found = frontier(chain, pass_costs(chain), ledger, "P(IK) + P(T)", tolerance=0)
    every = brute_force(chain, ledger, "p_ik")
    for price in (0.0, 0.05, 0.3, 2.0):
        ours = hull_value([(p.cost, p.accuracy) for p in found.vertices], price)
        assert ours == pytest.approx(hull_value(every, price), abs=1e-9)


@given(chains(most_models=3), st.sampled_from(LEDGERS), st.sampled_from(["P(IK)", *EARLY]))
def test_a_points_figures_are_those_of_its_policy(chain, ledger, signals):
    costs = pass_costs(chain)
    for point in frontier(chain, costs, ledger, signals).candidates:
        played = play(chain, point.policy)
        cost = spent(chain, point.policy, played.outcome, costs, ledger).sum() / costs.whole[-1].sum()
        assert (played.correct.mean(), cost) == pytest.approx((point.accuracy, point.cost))


def many(models: int, questions: int, seed: int) -> ChainScores:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(models):
        p = rng.beta(2 + i, 2, questions)
        noise = rng.normal(0, 0.1, (2, questions))
        p_t, p_ik = np.clip(p + noise, 0, 1)
        made.append(scored(f"m{i}", rng.random(questions) < p, p_t, p_ik, parameters=8**i, exit_share=0.5))
    return ChainScores(tuple(map(str, range(questions))), tuple(made))


def test_polish_never_does_worse_than_the_grid_or_a_random_search():
    chain = many(3, 400, seed=0)
    found = frontier(chain, pass_costs(chain), "early-exit", tolerance=0)
    rng, costs = np.random.default_rng(1), pass_costs(chain)
    for _ in range(300):
        limits = tuple(Thresholds(*rng.random(2)) for _ in range(2))
        policy = ThresholdPolicy.whole(limits)
        played = play(chain, policy)
        cost = spent(chain, policy, played.outcome, costs, "early-exit").sum() / costs.whole[-1].sum()
        for price in (0.02, 0.2):
            best = max(p.accuracy - price * p.cost for p in found.vertices)
            assert best >= played.correct.mean() - price * cost - 1e-9


def test_the_grid_is_every_combination_routed_by_itself():
    chain = many(3, 200, seed=2)
    levels = [(np.array([0.0, 0.3, 0.6]), np.array([0.0, 0.5])), (np.array([0.0, 0.7]), np.array([0.0, 0.2, 0.9]))]
    rng = np.random.default_rng(0)
    kept, early, late = rng.normal(size=(3, 200)), rng.normal(size=(2, 200)), rng.normal(size=(2, 200))
    pairs = [(m.signals.p_ik, m.signals.p_t) for m in chain.models[:-1]]
    sums = grid_sums(pairs, levels, kept, early, late)
    assert sums.shape == (3, 2, 2, 3)
    for at in np.ndindex(*sums.shape):
        limits = [Thresholds(p_ik=levels[i][0][at[2 * i]], p_t=levels[i][1][at[2 * i + 1]]) for i in range(2)]
        outcome = route(chain, limits)
        total = sum(
            {Outcome.ANSWERED: kept, Outcome.REJECTED_BY_P_IK: early, Outcome.REJECTED_BY_P_T: late}[outcome[m, q]][
                m, q
            ]
            for m in range(3)
            for q in range(200)
            if outcome[m, q] != Outcome.NOT_ASKED
        )
        assert sums[at] == pytest.approx(total)


@pytest.fixture(params=[0, window.SMALL], ids=["narrowed", "swept"])
def smallest(request, monkeypatch) -> None:
    """Windows of any size are narrowed by bounds, or none of a test's few questions is."""
    monkeypatch.setattr(window, "SMALL", request.param)


def test_a_quadrant_is_the_best_of_all(smallest):
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = rng.integers(1, 12)
        early, late = rng.integers(0, 4, (2, n)) / 4
        kept, early_out, late_out = rng.integers(-3, 4, (3, n)).astype(float)

        def total(a, b, early=early, late=late, kept=kept, early_out=early_out, late_out=late_out):
            cases = [
                early_out[q] if early[q] < a else late_out[q] if late[q] < b else kept[q] for q in range(len(early))
            ]
            return sum(cases)

        every = [total(a, b) for a in set(early) for b in set(late) if ((early >= a) & (late >= b)).any()]
        found = QuadrantSearch(early, late).best(kept, early_out, late_out)
        assert found.value == pytest.approx(max(every))
        assert total(found.early, found.late) == pytest.approx(max(every))


def test_single_models_compete():
    """The middle model is best and cheap: every chain with it can only lose."""
    n = 50
    rng = np.random.default_rng(0)
    p = [rng.random(n) for _ in range(3)]
    models = [
        scored("a", np.zeros(n, bool), p[0], parameters=1),
        scored("b", np.ones(n, bool), p[1], parameters=2),
        scored("c", np.zeros(n, bool), p[2], parameters=100),
    ]
    found = frontier(
        ChainScores(tuple(map(str, range(n))), tuple(models)),
        pass_costs(ChainScores(tuple(map(str, range(n))), tuple(models))),
        "full-path",
        "P(T)",
    )
    best = max(found.vertices, key=lambda point: point.accuracy)
    assert best.policy == ThresholdPolicy((1,), ())
    assert best.accuracy == 1


def test_choosing_keeps_its_limit_and_names_what_cannot_be_had():
    chain = many(2, 500, seed=4)
    found = frontier(chain, pass_costs(chain), "full-path")
    budget, floor = choose(found, "accuracy", 0.7), choose(found, "cost", 0.6)
    assert budget.cost <= 0.7
    assert floor.accuracy >= 0.6
    assert all(p.accuracy <= budget.accuracy for p in found.candidates if p.cost <= 0.7)
    assert all(p.cost >= floor.cost for p in found.candidates if p.accuracy >= 0.6)
    best = choose(found, "price", 0.2)
    assert best.accuracy - 0.2 * best.cost == max(p.accuracy - 0.2 * p.cost for p in found.candidates)
    for objective, limit, message in (
        ("accuracy", 0.01, "budget of at least"),
        ("cost", 0.99, "floor of at most"),
        ("luck", 1, "objective"),
    ):
        with pytest.raises(CascadeError, match=message):
            choose(found, objective, limit)


def test_fused_thresholds_cost_what_the_fused_policy_does():
    chain = many(3, 300, seed=5)
    fused = calibrations(chain)
    costs = pass_costs(chain)
    found = frontier(chain, costs, "early-exit", "fused P(IK), P(T)", fused=fused)
    assert len(found.vertices) > 3
    for point in found.vertices:
        played = play(chain, point.policy)
        cost = spent(chain, point.policy, played.outcome, costs, "early-exit").sum() / costs.whole[-1].sum()
        assert (played.correct.mean(), cost) == pytest.approx((point.accuracy, point.cost))


def test_scores_without_labels_or_signals_are_refused():
    from dataclasses import replace

    chain = many(2, 20, seed=6)
    with pytest.raises(CascadeError, match="labels"):
        frontier(replace(chain, labelled=False), pass_costs(chain), "full-path")
    with pytest.raises(CascadeError, match="p_ik_reader"):
        frontier(chain, pass_costs(chain), "full-path", "reader + P(T)")


def confidences(rng: np.random.Generator, ease: np.ndarray) -> np.ndarray:
    """With or without ties, saturated or not, or of one value."""
    values = 1 / (1 + np.exp(-2 * ease - rng.normal(size=len(ease))))
    values = [values, np.round(values, 1), np.round(values, 3), rng.random(len(ease)), np.ones(len(ease))][
        rng.choice(5, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    ]
    return np.where(rng.random(len(ease)) < rng.choice([0, 0.4]), 1.0, values)


def two_models(rng: np.random.Generator, questions: int) -> ChainScores:
    """The second model knows more; tokens differ from question to question, and costs may fall where more is kept."""
    ease = rng.normal(size=questions)
    made = tuple(
        scored(
            f"m{i}",
            correct=ease + rng.normal(size=questions) + i * rng.random() > 0,
            p_t=confidences(rng, ease),
            p_ik=confidences(rng, ease),
            parameters=int(rng.integers(1, 20)),
            exit_share=0.5,
            probe_parameters=int(rng.integers(0, 2)),
            prompt_tokens=rng.integers(1, 50, questions),
            completion_tokens=rng.integers(1, rng.choice([2, 100]), questions),
        )
        for i in range(2)
    )
    return ChainScores(tuple(map(str, range(questions))), made)


def every_pair(chain: ChainScores, unit: str, ledger: str) -> np.ndarray:
    """Accuracy and cost ``[policies, 2]`` of both models and of every pair of distinct thresholds between them."""
    costs, (small, large) = pass_costs(chain, unit), chain.models
    last = costs.whole[1]
    points = [(m.correct.mean(), cost.sum() / last.sum()) for m, cost in zip(chain.models, costs.whole, strict=True)]
    policy = ThresholdPolicy.whole([Thresholds(p_t=0.5, p_ik=0.5)])
    # What a question costs at the first model by what becomes of it: from three policies that treat all alike.
    cost = {}
    for name, limits in (
        ("kept", Thresholds(p_t=0, p_ik=0)),
        ("late", Thresholds(p_t=1, p_ik=0)),
        ("early", Thresholds(p_t=0, p_ik=1)),
    ):
        below = changed(small, p_t=np.full(len(chain), 0.5), p_ik=np.full(len(chain), 0.5))
        there = ChainScores(chain.question_ids, (below, large))
        policy = ThresholdPolicy.whole([limits])
        cost[name] = spent(there, policy, play(there, policy).outcome, costs, ledger)
    early, late = small.signals.p_ik, small.signals.p_t
    for a in np.unique(early):
        for b in np.unique(late):
            kept = (early >= a) & (late >= b)
            right = np.where(kept, small.correct, large.correct).mean()
            paid = np.where(kept, cost["kept"], np.where(early >= a, cost["late"], cost["early"]))
            points.append((right, paid.sum() / last.sum()))
    return np.array(points)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_for_a_goal_is_the_best_of_all_pairs_of_thresholds(seed, smallest, monkeypatch):
    """Also those within the convex frontier, which a grid of three levels seldom holds."""
    monkeypatch.setattr("cascade.simulation.chain_search._MOST_LEVELS", 3)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        chain = two_models(rng, int(rng.integers(1, 60)))
        unit, ledger = str(rng.choice(["flops", "tokens"])), str(rng.choice(LEDGERS))
        found, every = frontier(chain, pass_costs(chain, unit), ledger), every_pair(chain, unit, ledger)
        for floor in (*rng.choice(every[:, 0], 3), 1.01):
            allowed = every[every[:, 0] >= floor - 1e-9]
            if not len(allowed):
                with pytest.raises(OutOfReach):
                    choose(found, "cost", floor)
                continue
            best, cheapest = choose(found, "cost", floor), allowed[:, 1].min()
            assert best.cost == pytest.approx(cheapest, abs=1e-9)
            assert best.accuracy == pytest.approx(allowed[allowed[:, 1] <= cheapest + 1e-9, 0].max(), abs=1e-9)
            assert play(chain, best.policy).correct.mean() == pytest.approx(best.accuracy)
        for budget in rng.choice(every[:, 1], 3):
            allowed = every[every[:, 1] <= budget + 1e-9]
            best, highest = choose(found, "accuracy", budget), allowed[:, 0].max()
            assert best.accuracy == pytest.approx(highest, abs=1e-9)
            assert best.cost == pytest.approx(allowed[allowed[:, 0] >= highest - 1e-9, 1].min(), abs=1e-9)
        for price in (1e-4, float(rng.random()), 30.0):
            best = choose(found, "price", price)
            assert best.accuracy - price * best.cost == pytest.approx((every @ [1, -price]).max(), abs=1e-9)


def test_the_frontier_of_many_questions_is_that_of_every_threshold_by_cumulative_sums():
    """Enough questions for windows to be narrowed: with 200 levels of P(IK), all pairs are 200 sums over the others."""
    rng = np.random.default_rng(7)
    questions = 30_000
    ease = rng.normal(size=questions)
    p_ik, p_t = 1 / (1 + np.exp(-2 * ease - rng.normal(size=(2, questions))))
    p_ik, p_t = np.ceil(200 * p_ik) / 200, np.where(rng.random(questions) < 0.2, 1.0, p_t)
    right = rng.random((2, questions)) < 1 / (1 + np.exp(-2 * ease - np.array([[0.0], [1.0]])))
    chain = ChainScores(
        tuple(map(str, range(questions))),
        (
            scored("s", right[0], p_t, p_ik, parameters=1, exit_share=0.5),
            scored("l", right[1], p_t, p_ik, parameters=10, exit_share=0.5),
        ),
    )
    costs = pass_costs(chain)
    paid = {"kept": 0.1, "late": 1.1, "early": 1.05}
    order = np.argsort(-p_t, kind="stable")
    last_of_its_value = np.r_[p_t[order][1:] < p_t[order][:-1], True]
    accuracy, cost = [right.mean(axis=1)], [np.array([0.1, 1.0])]
    for a in np.unique(p_ik):
        passes = (p_ik >= a)[order]
        kept = np.cumsum(passes)
        won = np.cumsum(passes * (right[0].astype(int) - right[1])[order])
        accuracy.append(((right[1].sum() + won) / questions)[last_of_its_value])
        total = passes.sum() * paid["late"] + (questions - passes.sum()) * paid["early"]
        cost.append(((total + kept * (paid["kept"] - paid["late"])) / questions)[last_of_its_value])
    accuracy, cost = np.concatenate(accuracy), np.concatenate(cost)

    found = frontier(chain, costs, "early-exit", tolerance=0)
    for price in (1e-3, *np.linspace(0.02, 0.6, 40), 5.0):
        ours = hull_value([(p.cost, p.accuracy) for p in found.vertices], price)
        assert ours == pytest.approx((accuracy - price * cost).max(), abs=1e-9)
    for floor in np.quantile(accuracy, [0.3, 0.6, 0.9, 0.999]):
        assert choose(found, "cost", floor).cost == pytest.approx(cost[accuracy >= floor - 1e-9].min(), abs=1e-9)
    for budget in (0.3, 0.55, 0.8):
        assert choose(found, "accuracy", budget).accuracy == pytest.approx(
            accuracy[cost <= budget + 1e-9].max(), abs=1e-9
        )


@pytest.mark.parametrize("seed", range(20))
def test_a_lot_between_two_models_is_the_best_of_all_lots(seed):
    """Of the lots among any number of models, by linear programming."""
    rng = np.random.default_rng(seed)
    models = int(rng.integers(1, 6))
    right, cost = rng.random(models), np.r_[rng.random(models - 1), 1.0]
    lots = Lots(right, cost, seed=0)
    floor, budget = float(rng.uniform(0, right.max())), float(rng.uniform(cost.min(), 1))
    one = {"A_eq": np.ones((1, models)), "b_eq": [1]}
    cheapest = linprog(cost, A_ub=-right[None], b_ub=[-floor], **one).fun
    assert lots.best(Goal("cost"), floor).cost == pytest.approx(cheapest)
    most = -linprog(-right, A_ub=cost[None], b_ub=[budget], **one).fun
    assert lots.best(Goal("accuracy"), budget).accuracy == pytest.approx(most)
