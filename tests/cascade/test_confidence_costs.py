"""What a confidence in P(T)'s place costs, by hand, in every ledger and unit; and that the simulator charges it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.policies.file import read_policy
from cascade.policies.ledgers import Prices, pass_costs
from cascade.policies.random_mixing import RandomPolicy
from cascade.policies.thresholds import ThresholdPolicy
from cascade.scores.arrays import ChainScores
from cascade.simulate import main
from cascade.simulation.chain_search import ChainSearch
from cascade.simulation.simulator import play, spent
from tests.cascade.scored import changed, scored

# Three questions, one kept and two passed on by P(T) ≥ 0.5; two prompts more, of 4 and of 6 tokens in all.
SMALL = scored(
    "s", np.array([True, False, True]), np.array([0.9, 0.2, 0.1]),
    parameters=10, num_layers=2, hidden_size=3, seconds=np.array([1.0, 1.0, 1.0]),
    prompt_tokens=np.array([5, 5, 5]), completion_tokens=np.array([3, 3, 3]),
    p_t_prompts=np.array([2, 2, 2]), p_t_prompt_tokens=np.array([8, 8, 8]),
    p_t_completion_tokens=np.array([4, 4, 4]), p_t_seconds=np.array([0.5, 0.5, 0.5]),
    p_t_needs_answer=True,
)  # fmt: skip
LARGE = scored(
    "l", np.array([True, True, True]), None,
    parameters=100, num_layers=4, hidden_size=5, seconds=np.array([4.0, 4.0, 4.0]),
    prompt_tokens=np.array([5, 5, 5]), completion_tokens=np.array([3, 3, 3]),
)  # fmt: skip
CHAIN = ChainScores(("a", "b", "c"), (SMALL, LARGE))
PRICES = Prices("by hand", {"s": (1e6, 2e6), "l": (10e6, 20e6)})
BY_P_T = ThresholdPolicy.whole([Thresholds(0.5, None)])


def context(prompts: int, read: int, written: int, n: int, layers: int, width: int) -> float:
    """Eq. 2 token by token: 2N + 2 · n_layer · n_ctx · d_model, for each but the last written."""
    return prompts * sum(2 * n + 2 * layers * width * position for position in range(1, read + written))


WHOLE = {
    "tokens": (8, 12, 8),
    "dollars": (5 + 6, 8 + 8, 50 + 60),
    "seconds": (1.0, 0.5, 4.0),
    "flops": (20, 40, 200),
    "flops-context": (context(1, 5, 3, 10, 2, 3), context(2, 4, 2, 10, 2, 3), context(1, 5, 3, 100, 4, 5)),
}


@pytest.mark.parametrize("unit", WHOLE)
@pytest.mark.parametrize("ledger", ["answered-only", "full-path", "early-exit"])
def test_what_a_confidence_took_is_charged_wherever_it_was_asked(unit, ledger):
    own, extra, last = WHOLE[unit]
    costs = pass_costs(CHAIN, unit, PRICES)
    found = spent(CHAIN, BY_P_T, play(CHAIN, BY_P_T).outcome, costs, ledger)
    # It is about the whole answer, which early-exit can therefore not save.
    passed_on = last if ledger == "answered-only" else own + extra + last
    assert found == pytest.approx([own + extra, passed_on, passed_on])


@pytest.mark.parametrize("unit", WHOLE)
def test_the_frontier_counts_as_the_policies_do(unit):
    costs = pass_costs(CHAIN, unit, PRICES)
    for ledger in ("answered-only", "full-path", "early-exit"):
        search = ChainSearch(CHAIN, costs, (0, 1), "P(T)", ledger)
        whole = spent(CHAIN, BY_P_T, play(CHAIN, BY_P_T).outcome, costs, ledger).sum() / costs.whole[-1].sum()
        assert search.measure([(None, 0.5)])[1] == pytest.approx(whole)


def test_who_does_not_ask_it_does_not_pay():
    costs = pass_costs(CHAIN, "tokens")
    for policy in (ThresholdPolicy((0,), ()), RandomPolicy((1.0, 0.0)), ThresholdPolicy.whole([Thresholds(None, 0.5)])):
        assert spent(CHAIN, policy, play(CHAIN, policy).outcome, costs, "full-path").tolist() == [8, 8, 8]


def test_prompts_without_their_tokens_cannot_be_counted():
    lacking = changed(SMALL, p_t_prompt_tokens=None)
    with pytest.raises(CascadeError, match="'s' to have p_t_prompt_tokens in every row, to count tokens"):
        pass_costs(ChainScores(CHAIN.question_ids, (lacking, LARGE)), "tokens")


def test_the_simulator_uses_the_column_it_is_given_and_charges_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    n, ids = 400, [f"q{i}" for i in range(400)]
    right = rng.random(n) < 0.5
    base = {"question_id": ids, "prompt_tokens": [10] * n, "completion_tokens": [2] * n}
    small = pa.table(
        base | {
            "model": ["s"] * n, "correct": right, "p_t": rng.random(n), "confidence_p_true": np.where(right, 0.9, 0.1),
            "confidence_p_true_prompts": [1] * n, "confidence_p_true_prompt_tokens": [20] * n,
            "confidence_p_true_completion_tokens": [1] * n, "parameters": [10] * n,
        }
    )  # fmt: skip
    large = pa.table(base | {"model": ["l"] * n, "correct": [True] * n, "p_t": [1.0] * n, "parameters": [100] * n})
    path = tmp_path / "both.parquet"
    pq.write_table(pa.concat_tables([small, large], promote_options="default"), path)
    flags = ["--scores", str(path), "--chain", "s,l", "--p_t", "0.5"]
    main([*flags, "--columns.p_t=confidence_p_true", "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    chain = found["chains"][0]
    assert chain["accuracy"] == 1.0  # by P(T) itself it would be chance
    assert next(c for c in found["confidences"] if c["confidence"] == "P(T)")["auroc"] == 1.0
    assert found["questions"] == n
    # Each question: 12 tokens and 21 more; those passed on 12 again, of 12 that the last model takes alone.
    passed = 1 - right.mean()
    assert chain["saved"]["tokens"]["full-path"] == pytest.approx(1 - (33 + 12 * passed) / 12)
    assert chain["saved"]["flops"]["full-path"] == pytest.approx(1 - (40 + 200 * passed) / 200)
    assert "confidence_p_true stands in P(T)'s place" in capsys.readouterr().out
    with pytest.raises(CascadeError, match="on confidence_p_true, which a live cascade does not ask for"):
        read_policy(tmp_path / "out" / "report.json", ["s", "l"])
    # By P(T) itself nothing more is read.
    main([*flags, "--out", str(tmp_path / "plain")])
    plain = json.loads((tmp_path / "plain" / "report.json").read_text())["chains"][0]
    assert plain["accuracy"] < 0.9 and plain["saved"]["tokens"]["answered-only"] == pytest.approx(0)
