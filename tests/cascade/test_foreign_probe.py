"""A probe that scikit-learn trained, from the store's files to a cascade's ledgers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import io as skops

from cascade.engines.settings import DecoderConfig
from cascade.errors import CascadeError
from cascade.policies.base import Thresholds
from cascade.probing.chain import with_p_ik
from cascade.scores.arrays import align
from cascade.scoring.scored import score
from cascade.simulation.simulator import report
from probes import probe_from_file, probe_from_tensors

SMALL, LARGE, LAYER = "mini-llama-small", "mini-qwen3-small", 3


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    stores = tmp_path_factory.mktemp("stores")
    return {name: score(name, "mini-gpqa", stores) for name in (SMALL, LARGE)}


def test_a_probe_trained_with_scikit_learn_alone_decides_in_a_cascade(scored, tmp_path):
    store, table = scored[SMALL].store, scored[SMALL].table()
    states, right = store.layer(LAYER).numpy(), table["correct"].to_numpy()
    train = np.arange(len(right)) % 2 == 0
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(states[train], right[train])
    skops.dump(estimator, tmp_path / "head.skops")

    key = store.key
    probe = probe_from_file(
        tmp_path / "head.skops", layer=LAYER, base_model=key.model, base_revision=key.model_revision, num_layers=3
    )
    with_probe = with_p_ik(scored[SMALL], probe)
    p_ik = with_probe["p_ik"].to_numpy()
    np.testing.assert_allclose(p_ik, estimator.predict_proba(states)[:, 1], rtol=0, atol=1e-6)
    assert roc_auc_score(right[train], p_ik[train]) > 0.6

    tables = pa.concat_tables([with_probe, with_p_ik(scored[LARGE], None)], promote_options="default")
    threshold = float(np.median(p_ik))
    (row,) = report(align(tables, [SMALL, LARGE]), Thresholds(p_t=0.0, p_ik=threshold)).chains
    kept = p_ik >= threshold  # at a P(T) threshold of 0 the probe alone decides
    other = scored[LARGE].table()["correct"].to_numpy()
    assert row.answered == (int(kept.sum()), int((~kept).sum()))
    assert row.accuracy == pytest.approx(np.where(kept, right, other).mean())


def head(store) -> dict[str, torch.Tensor]:
    return {"weight": torch.ones(1, store.hidden_size), "bias": torch.zeros(1)}


def test_a_probe_that_does_not_say_its_bases_revision_is_taken_by_that_name_live_and_on_stores(scored):
    for base in (SMALL, f"/somewhere/else/{SMALL}"):
        probe = probe_from_tensors(head(scored[SMALL].store), layer=LAYER, base_model=base)
        p_ik = probe.predict(scored[SMALL].store.layer(LAYER))
        assert with_p_ik(scored[SMALL], probe)["p_ik"].to_pylist() == pytest.approx(p_ik.tolist())
        assert DecoderConfig(SMALL).build(probe).probe_layer == LAYER


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        ({"base_model": LARGE}, f"base_model={LARGE}.*base_model={SMALL}"),
        ({"base_revision": "0" * 40}, f"base_revision={'0' * 40}"),
        ({"dtype": "float16"}, "dtype=float16.*dtype=float32"),
        ({"template_hash": "0123"}, "template_hash=0123"),
        ({"position": "mean"}, "position=mean"),
    ],
)
def test_what_a_probe_says_of_its_base_has_to_hold(scored, said, refusal):
    probe = probe_from_tensors(head(scored[SMALL].store), **{"layer": LAYER, "base_model": SMALL} | said)
    with pytest.raises(CascadeError, match=refusal):
        with_p_ik(scored[SMALL], probe)
    with pytest.raises(CascadeError, match=refusal):
        DecoderConfig(SMALL).build(probe)
