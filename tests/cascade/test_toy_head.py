"""A head is one file: `tests/toys/toy_head.py` is calibrated, saved, loaded, simulated and run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from cascade.probing.chain import with_p_ik
from cascade.runtime import build_cascade
from cascade.scoring.scored import score
from cascade.tasks.load import load_task
from probes import Probe, stratified_split
from tests.toys.toy_head import mass_mean_probe

SMALL, LARGE, TASK, LAYER = "mini-llama-small", "mini-llama-medium", "mini-gpqa", 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A scored task, its split, and the toy's probe as it was saved."""
    scored = score(SMALL, TASK, tmp_path_factory.mktemp("stores"))
    questions = load_task(TASK).questions
    split = stratified_split([q.id for q in questions], [q.subject for q in questions])
    train, validation, test = (torch.as_tensor(rows) for rows in (split.train, split.validation, split.test))
    knows = torch.as_tensor(scored.table()["correct"].to_numpy().astype(bool))
    probe = mass_mean_probe(scored.store, LAYER, knows, train, torch.cat([validation, test]))
    folder = tmp_path_factory.mktemp("probe")
    probe.save_pretrained(folder)
    return scored, knows.numpy(), train.numpy(), torch.cat([validation, test]).numpy(), probe, folder


def test_its_p_ik_is_the_logistic_fit_of_the_place_along_the_line_between_the_means(made):
    scored, knows, train, held_out, probe, _ = made
    states = scored.store.layer(LAYER).double().numpy()
    right = np.mean([states[i] for i in train if knows[i]], axis=0)
    wrong = np.mean([states[i] for i in train if not knows[i]], axis=0)
    places = ((states - (right + wrong) / 2) @ (right - wrong))[:, None]
    reference = LogisticRegression(C=1e9, tol=1e-10).fit(places[held_out], knows[held_out])
    np.testing.assert_allclose(
        probe.predict(scored.store.layer(LAYER)), reference.predict_proba(places)[:, 1], atol=2e-3
    )
    assert roc_auc_score(knows[train], places[train, 0]) > 0.55


def test_it_is_a_checkpoint_like_any_other_and_reads_a_scored_task(made):
    scored, _, _, _, probe, folder = made
    loaded = Probe.from_pretrained(folder)
    assert loaded.config.calibration == "platt"
    told = with_p_ik(scored, loaded)["p_ik"].to_numpy()
    np.testing.assert_allclose(told, probe.predict(scored.store.layer(LAYER)), atol=1e-7)


def test_a_live_cascade_reads_it(made, tmp_path):
    scored, _, _, _, probe, folder = made
    chain = {"models": [{"model": SMALL, "probe": str(folder)}, {"model": LARGE}], "p_t": 0.0, "p_ik": 0.0}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump(chain))
    asked = load_task(TASK).questions[:12]
    answers = build_cascade(tmp_path / "chain.yaml").answer_many(asked)
    told = probe.predict(scored.store.layer(LAYER))[:12]
    np.testing.assert_allclose([answer.steps[0].p_ik for answer in answers], told, atol=1e-4)
