"""The simulator against a plain loop written for obviousness, and against the paper's published counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.ledgers import LEDGERS, PassCosts, charges, pass_flops, question_costs
from cascade.policies.outcome import Outcome
from cascade.policies.thresholds import ThresholdPolicy, route
from cascade.scores.arrays import ChainScores, sub_chains
from cascade.simulation.simulator import all_costs, report
from cascade.simulation.simulator import simulate as simulate_policy
from tests.cascade.scored import changed, scored

NOMINAL = {"3B": 3e9, "8B": 8e9, "70B": 70e9}
EXACT = {"3B": 3_212_749_824, "8B": 8_030_261_248, "70B": 70_553_706_496}

# The paper's Table 8: who answered how many of 1,430; and the saving its Table 1 gives.
TABLE_8 = [
    ({"3B": 487, "8B": 943}, 20.34),
    ({"3B": 487, "70B": 943}, 32.47),
    ({"8B": 594, "70B": 836}, 36.46),
    ({"3B": 487, "8B": 198, "70B": 745}, 44.48),
]


def simulate(chain, thresholds):
    return simulate_policy(chain, ThresholdPolicy.whole(thresholds), all_costs(chain))


def saved_share(outcome: np.ndarray, sizes: list[float], ledger: str) -> float:
    """Share of the last model's FLOPs saved, from outcomes alone."""
    prefill = np.repeat([[pass_flops(size)] for size in sizes], outcome.shape[1], axis=1)
    none = 0 * prefill
    probe, exits = np.zeros(len(sizes)), np.ones(len(sizes))
    costs = PassCosts("flops", prefill, none, none, probe, exits, none, ("",) * len(sizes), none)
    charged = charges(costs, ledger, [()] * len(sizes))
    return 1 - question_costs(outcome, charged).sum() / prefill[-1].sum()


def outcome_of(counts: dict[str, int]) -> np.ndarray:
    """Outcomes in which the first questions are answered by the first model, and so on; none leaves by P(IK)."""
    total = sum(counts.values())
    outcome = np.full((len(counts), total), Outcome.NOT_ASKED, dtype=np.int8)
    start = 0
    for stage, count in enumerate(counts.values()):
        outcome[stage, start:] = Outcome.REJECTED_BY_P_T
        outcome[stage, start : start + count] = Outcome.ANSWERED
        start += count
    return outcome


@pytest.mark.parametrize(("counts", "published"), TABLE_8)
def test_answered_only_is_the_papers_formula(counts, published):
    saved = 100 * saved_share(outcome_of(counts), [EXACT[name] for name in counts], "answered-only")
    assert saved == pytest.approx(published, abs=0.5)


def test_the_papers_worked_example_in_gflops():
    """Appendix D: 3B → 8B → 70B costs 1.1 × 10⁵ GFLOPs, 8B → 70B 1.27 × 10⁵ (a token a question)."""
    for counts, expected in ((TABLE_8[3][0], 1.1e5), (TABLE_8[2][0], 1.27e5)):
        sizes = [NOMINAL[name] for name in counts]
        spent = (1 - saved_share(outcome_of(counts), sizes, "answered-only")) * 1430 * pass_flops(sizes[-1])
        assert spent / 1e9 == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("place", "saved"), [(0, -3.4), (1, 29.8), (2, 30.1), (3, 36.1)])
def test_full_path_charges_the_passes_the_paper_leaves_out(place, saved):
    """With nominal sizes; worked out by hand: every model is charged all questions that reached it."""
    counts = TABLE_8[place][0]
    reached, cost = sum(counts.values()), 0.0
    for name, count in counts.items():
        cost += reached * NOMINAL[name]
        reached -= count
    by_hand = 100 * (1 - cost / (1430 * NOMINAL[list(counts)[-1]]))
    ours = 100 * saved_share(outcome_of(counts), [NOMINAL[name] for name in counts], "full-path")
    assert ours == pytest.approx(by_hand)
    assert ours == pytest.approx(saved, abs=0.06)


def plain_loop(chain: ChainScores, thresholds: list[Thresholds]) -> dict[str, object]:
    """One question after another, one model after another."""
    right, answered = 0, [0] * len(chain.models)
    cost = dict.fromkeys(LEDGERS, 0.0)
    for q in range(len(chain.question_ids)):
        for i, model in enumerate(chain.models):
            price = 2.0 * model.info.parameters
            if i < len(chain.models) - 1:
                limits = thresholds[i]
                if limits.p_ik is not None and model.signals.p_ik is not None and model.signals.p_ik[q] < limits.p_ik:
                    cost["full-path"] += price
                    cost["early-exit"] += price * model.info.exit_share
                    continue
                if model.signals.p_t[q] < limits.p_t:
                    cost["full-path"] += price
                    cost["early-exit"] += price
                    continue
            for ledger in LEDGERS:
                cost[ledger] += price
            right += bool(model.correct[q])
            answered[i] += 1
            break
    whole = 2.0 * chain.models[-1].info.parameters * len(chain.question_ids)
    return {
        "accuracy": right / len(chain.question_ids),
        "answered": tuple(answered),
        "flops": {ledger: 1 - spent / whole for ledger, spent in cost.items()},
    }


LEVELS = st.sampled_from([0.0, 0.25, 0.5, 0.5000001, 0.9, 1.0])


@st.composite
def chains(draw) -> tuple[ChainScores, list[Thresholds]]:
    models, questions = draw(st.integers(2, 4)), draw(st.integers(1, 30))

    def column(values) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=questions, max_size=questions)))

    made = tuple(
        scored(
            name=f"m{i}",
            correct=column(st.booleans()),
            p_t=column(LEVELS),
            p_ik=column(LEVELS) if draw(st.booleans()) else None,
            parameters=draw(st.integers(1, 100)) * (i + 1),
            exit_share=draw(st.sampled_from([0.0, 0.5, 0.75, 1.0])),
        )
        for i in range(models)
    )
    limits = [Thresholds(draw(LEVELS), draw(st.none() | LEVELS)) for _ in range(models - 1)]
    return ChainScores(tuple(map(str, range(questions))), made, None), limits


@given(chains())
def test_the_simulator_is_the_plain_loop(case):
    chain, thresholds = case
    row, expected = simulate(chain, thresholds), plain_loop(chain, thresholds)
    assert row.accuracy == pytest.approx(expected["accuracy"])
    assert row.answered == expected["answered"]
    assert row.saved["flops"] == pytest.approx(expected["flops"])


@given(chains())
def test_ledgers_are_ordered_and_every_question_is_answered_once(case):
    chain, thresholds = case
    row, outcome = simulate(chain, thresholds), route(chain, thresholds)
    assert (outcome == Outcome.ANSWERED).sum(axis=0).tolist() == [1] * len(chain.question_ids)
    assert row.saved["flops"]["answered-only"] >= row.saved["flops"]["early-exit"] - 1e-12
    assert row.saved["flops"]["early-exit"] >= row.saved["flops"]["full-path"] - 1e-12


def small_chain() -> ChainScores:
    def model(name, correct, p_t, p_ik, parameters):
        p_ik = None if p_ik is None else np.array(p_ik)
        return scored(name, np.array(correct, bool), np.array(p_t), p_ik, parameters=parameters, exit_share=0.5)

    return ChainScores(
        ("a", "b", "c", "d"),
        (
            model("small", [1, 0, 0, 1], [0.9, 0.95, 0.3, 0.99], [0.5, 0.2, 0.9, 0.8], 10),
            model("middle", [1, 1, 0, 1], [0.99, 0.9, 0.5, 0.2], [0.9, 0.9, 0.9, 0.9], 40),
            model("large", [1, 1, 1, 0], [1.0, 1.0, 1.0, 1.0], None, 100),
        ),
        None,
    )


def test_a_worked_example():
    """small keeps a (0.9 and 0.5 reach their thresholds) and d; b fails P(IK), c fails P(T)."""
    row = simulate(small_chain(), [Thresholds(0.9, 0.5), Thresholds(0.9, 0.5)])
    assert row.answered == (2, 1, 1)
    assert row.tried == (4, 2, 1)
    assert row.accuracy == 1.0
    assert row.pd_points == pytest.approx(25.0)
    assert row.pd_relative == pytest.approx(100 / 3)
    # answered-only 2·10 + 40 + 100; full-path + 2·10 (small) + 40 (middle, on c); early-exit: b costs small only half.
    assert row.saved["flops"] == pytest.approx(
        {"answered-only": 1 - 160 / 400, "full-path": 1 - 220 / 400, "early-exit": 1 - 215 / 400}
    )


def test_calls_are_those_of_each_chains_own_last_model():
    """a and d stay with small: two of four calls of middle, or of large."""
    chain = small_chain()
    bare = replace(chain, models=tuple(changed(m, parameters=None) for m in chain.models))
    made = report(bare, Thresholds(0.9, 0.5))
    assert made.unit == "calls"
    saved = {row.models: row.saved["calls"] for row in made.chains}
    for models in (("small", "middle"), ("small", "large")):
        assert saved[models] == dict.fromkeys(LEDGERS, 0.5)


def test_a_unit_in_which_the_last_model_costs_nothing_is_not_the_reports():
    chain, none = small_chain(), np.zeros(4, dtype=int)
    free = [changed(m, parameters=None, prompt_tokens=none, completion_tokens=none) for m in chain.models]
    timed = [changed(m, seconds=np.ones(4)) for m in free]
    assert report(replace(chain, models=tuple(timed)), Thresholds()).unit == "seconds"
    assert report(replace(chain, models=tuple(free)), Thresholds()).unit == "tokens"


def test_a_report_holds_every_model_and_sub_chain():
    made = report(small_chain(), Thresholds())
    assert [row.models for row in made.singles] == [("small",), ("middle",), ("large",)]
    assert [row.models for row in made.chains] == [
        ("small", "middle"),
        ("small", "large"),
        ("middle", "large"),
        ("small", "middle", "large"),
    ]
    assert [row.models for row in made.without_p_ik] == [row.models for row in made.chains]
    assert not any(row.uses_p_ik for row in made.without_p_ik)
    chain = small_chain()
    assert [chain.keep(places).names for places in sub_chains(chain)] == [row.models for row in made.chains]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_of_0_to_1_is_named(value):
    with pytest.raises(CascadeError, match="p_t"):
        Thresholds(p_t=value)
    with pytest.raises(CascadeError, match="p_ik"):
        Thresholds(p_ik=value)
