"""The live cascade against the simulator: the same questions, the same policy, the same decisions and answers."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from importlib.util import find_spec
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from cascade.engines import ENGINES
from cascade.engines.base import OPEN, Failure, Prompt, Reply
from cascade.engines.reader import ModelReader
from cascade.engines.settings import DecoderConfig, engine_config, read_settings
from cascade.errors import CascadeError
from cascade.miniature.shipped import shipped_probe, validation_scores
from cascade.policies.base import Thresholds
from cascade.policies.expected_utility import ExpectedUtilityPolicy
from cascade.policies.file import policy_from_json
from cascade.policies.fused import FusedPolicy, calibrations
from cascade.policies.ledgers import LEDGERS, Prices, pass_costs
from cascade.policies.outcome import Outcome
from cascade.policies.thresholds import ThresholdPolicy
from cascade.probing.chain import with_p_ik
from cascade.runtime import Answer, Cascade, CascadeConfig, Member
from cascade.runtime.build import build_cascade
from cascade.runtime.config import ReaderSettings
from cascade.runtime.costs import answer_costs, step_costs, units
from cascade.runtime.engine import Step
from cascade.scores.arrays import ChainScores, align
from cascade.scoring.scored import score
from cascade.simulation.simulator import play, spent
from cascade.tasks.load import load_task
from cascade.tasks.task import Task
from probes import Probe
from tests.cascade.scored import changed
from tests.profile import LONG

FAMILIES = ("mini-llama", "mini-qwen3")


def names_of(family: str) -> list[str]:
    return [f"{family}-{size}" for size in ("small", "medium", "large")]


@pytest.fixture(scope="module")
def test_split() -> Task:
    task = load_task("mini-mmlu")
    return task.take(task.split().test[:: 1 if LONG else 2])


@pytest.fixture(scope="module")
def scored(test_split, tmp_path_factory) -> dict[str, pa.Table]:
    """Score tables of both families, by the simulator's own road."""
    root, tables = tmp_path_factory.mktemp("stores"), {}
    for name in (name for family in FAMILIES for name in names_of(family)):
        folder = shipped_probe(name)
        probe = None if folder is None else Probe.from_pretrained(folder)
        tables[name] = with_p_ik(score(name, test_split, root), probe)
    return tables


def simulated(scored: dict[str, pa.Table], names: list[str]) -> ChainScores:
    return align(pa.concat_tables([scored[n] for n in names], promote_options="default"), names)


@pytest.fixture(scope="module", params=FAMILIES)
def live(request, scored) -> tuple[Cascade, ChainScores]:
    names = names_of(request.param)
    return build_cascade(CascadeConfig(chain=",".join(names))), simulated(scored, names)


def same(cascade: Cascade, chain: ChainScores, policy, test_split: Task) -> list[Answer]:
    """Every question's outcomes, answer and correctness, live and simulated."""
    by_id = {q.id: q for q in test_split.questions}
    cascade.check_policy(policy)
    journeys = [cascade.start(by_id[i], policy) for i in chain.question_ids]
    answers = cascade.answer_many((), progress=False, journeys=journeys)
    played = play(chain, policy)
    outcome = np.zeros_like(played.outcome)
    for q, answer in enumerate(answers):
        for step in answer.steps:
            outcome[step.place, q] = step.outcome
    assert (outcome == played.outcome).all()
    for q, answer in enumerate(answers):
        who = chain.models[played.who[q]]
        assert (answer.model, answer.text) == (who.name, who.predictions[q])
    return answers


def test_every_chain_answers_as_it_was_simulated(live, test_split):
    cascade, chain = live
    assert len(chain) == len(test_split.questions) >= 405
    for places in [p for size in (1, 2, 3) for p in combinations(range(3), size)]:
        for limits in (Thresholds(0.9, 0.5), Thresholds(0.7, None)) if len(places) == 3 else (Thresholds(0.8, 0.6),):
            same(cascade, chain, ThresholdPolicy(places, (limits,) * (len(places) - 1)), test_split)


def test_policies_of_every_other_kind_answer_as_they_were_simulated(live, test_split):
    cascade, chain = live
    chosen_on = align(validation_scores(cascade.names), cascade.names)
    fused = calibrations(chosen_on)
    same(cascade, chain, FusedPolicy((0, 1, 2), (0.8, 0.7), fused), test_split)
    costs = [m.info.parameters / chosen_on.models[-1].info.parameters for m in chosen_on.models]
    same(cascade, chain, ExpectedUtilityPolicy.fit(chosen_on, costs, price=0.15), test_split)
    same(cascade, chain, cascade.policy_within(0.6), test_split)


def test_costs_are_the_simulators(live, test_split):
    cascade, chain = live
    policy = ThresholdPolicy.whole([Thresholds(0.9, 0.5)] * 2)
    answers = same(cascade, chain, policy, test_split)
    assert units(cascade) == ("flops", "flops-context", "tokens")
    prices = Prices("test", {name: (1.0 + i, 2.0 + i) for i, name in enumerate(cascade.names)})
    priced = Cascade(cascade.models, policy, prices=prices)
    for unit, ledgers in answer_costs(priced, answers).items():
        costs = pass_costs(chain, unit, prices)
        outcome = play(chain, policy).outcome
        for ledger in LEDGERS:
            theirs = spent(chain, policy, outcome, costs, ledger)
            ours = ledgers[ledger]
            if unit in ("tokens", "dollars") and ledger == "full-path":
                # Live, P(IK) turned it away before the first token was written, which simulating has to assume.
                rejected = (outcome == Outcome.REJECTED_BY_P_IK).any(axis=0)
                assert (ours[rejected] < theirs[rejected]).all()
                ours, theirs = ours[~rejected], theirs[~rejected]
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, err_msg=f"{unit}, {ledger}")


def test_one_question_is_answered_as_it_is_among_many(live, test_split):
    cascade, _ = live
    together = cascade.answer_many(test_split.questions[:12], progress=False)
    alone = [cascade.answer(question) for question in test_split.questions[:12]]
    assert [(a.text, a.model) for a in alone] == [(a.text, a.model) for a in together]


def test_models_that_do_not_fit_together_are_held_one_at_a_time(test_split):
    cascade = build_cascade(CascadeConfig(chain="mini-llama-small,mini-llama-medium", keep_loaded=False))
    answers = cascade.answer_many(test_split.questions[:50], progress=False)
    assert {a.model for a in answers} == set(cascade.names)
    assert all("model" not in model.decoder.__dict__ for model in cascade.models)


def test_a_reader_turns_questions_away_before_the_model_is_run(scored, test_split, tmp_path):
    """The small model reads for the medium one, up to its probe's layer and no further."""
    chain = simulated(scored, ["mini-llama-medium", "mini-llama-large"])
    probe = Probe.from_pretrained(shipped_probe("mini-llama-small"))
    reader = ModelReader(DecoderConfig("mini-llama-small").build(), probe)
    small = simulated(scored, ["mini-llama-small", "mini-llama-large"]).models[0]
    read_by = {"reader": "mini-llama-small", "reader_parameters": small.info.parameters}
    medium = changed(chain.models[0], p_ik_reader=small.signals.p_ik, **read_by)
    chain = replace(chain, models=(medium, chain.models[1]))
    models = [DecoderConfig(name).build() for name in chain.names]
    policy = ThresholdPolicy.whole([Thresholds(0.9, None, 0.6)])
    cascade = Cascade(models, policy, readers={0: reader})
    answers = same(cascade, chain, policy, test_split)
    assert any(step.outcome == Outcome.PASSED_BY_READER for answer in answers for step in answer.steps)
    outcome, ours = play(chain, policy).outcome, answer_costs(cascade, answers)
    for unit in ("flops", "flops-context", "tokens"):
        costs = pass_costs(chain, unit)
        for ledger in LEDGERS:
            theirs = spent(chain, policy, outcome, costs, ledger)
            np.testing.assert_allclose(ours[unit][ledger], theirs, rtol=1e-12, err_msg=f"{unit}, {ledger}")
    with pytest.raises(CascadeError, match="'mini-llama-medium' to have a reader"):
        Cascade(models, policy)


def test_a_reader_is_given_back_with_its_model(test_split):
    probe = Probe.from_pretrained(shipped_probe("mini-llama-small"))
    reader = ModelReader(DecoderConfig("mini-llama-small").build(), probe)
    models = [DecoderConfig(f"mini-llama-{size}").build() for size in ("medium", "large")]
    policy = ThresholdPolicy.whole([Thresholds(0.9, None, 0.6)])
    Cascade(models, policy, readers={0: reader}, keep_loaded=False).answer_many(test_split.questions[:4], False)
    assert "model" not in reader.model.decoder.__dict__


class Sketch:
    """A model that replies what it is told to, and fails where it is told to."""

    num_layers = hidden_size = probe_layer = None
    probe_parameters, batch_size, parallel, exits_early = 0, 4, 1, True

    def __init__(self, name: str, p_t: float | None, parameters: int, fails: tuple[str, ...] = ()) -> None:
        self.name, self.p_t, self.parameters, self.fails, self.asked = name, p_t, parameters, fails, []

    def answer(self, prompts, gate=OPEN, on_token=None):
        self.asked += [prompt.question_id for prompt in prompts]
        return [
            Failure(p.question_id, f"{self.name} is down")
            if p.question_id in self.fails
            else Reply(self.name, 10, 1, 0.1, p_t=self.p_t, p_t_normalized=0.3 if p.letters else None)
            for p in prompts
        ]

    @property
    def identity(self):
        return {"name": self.name}

    def release(self) -> None:
        pass


def asked(*fails: tuple[str, ...], best_effort: bool = False, p_t: float | None = 0.1) -> dict[str, Answer]:
    models = [Sketch(f"m{i}", p_t, 10**i, failing) for i, failing in enumerate(fails)]
    cascade = Cascade(models, ThresholdPolicy.whole([Thresholds(0.5, None)] * (len(models) - 1)))
    journeys = [cascade.start(Prompt(i, "?", letters=("A",)), best_effort=best_effort) for i in "ab"]
    return {a.question_id: a for a in cascade.answer_many((), progress=False, journeys=journeys)}


def test_what_a_stage_fails_on_goes_to_the_next_stronger_one_and_says_so():
    found = asked(("a",), (), ())
    assert (found["a"].model, found["b"].model) == ("m2", "m2")
    assert [(s.model, s.failure) for s in found["a"].steps] == [("m0", "m0 is down"), ("m1", ""), ("m2", "")]


def test_nothing_is_answered_by_a_model_whose_confidence_was_too_low():
    found = asked((), (), ("a",))
    assert (found["a"].model, found["a"].failure, found["b"].model) == (None, "m2 is down", "m2")
    with pytest.raises(CascadeError, match="'a' has no answer: m2 is down"):
        _ = found["a"].reply


def test_a_best_effort_goes_back_to_the_strongest_that_replied():
    found = asked((), (), ("a",), best_effort=True)
    assert found["a"].model == "m1"
    assert [(s.model, s.best_effort) for s in found["a"].steps] == [
        ("m0", False),
        ("m1", False),
        ("m2", False),
        ("m1", True),
    ]
    assert [s.best_effort for s in found["b"].steps] == [False] * 3
    everybody = asked(("a",), ("a",), ("a",), best_effort=True)["a"]
    assert everybody.model is None and len(everybody.steps) == 3


def test_a_confidence_that_is_not_known_keeps_nothing():
    assert {a.model for a in asked((), (), (), p_t=None).values()} == {"m2"}


def test_what_a_probe_on_the_embeddings_turns_away_has_cost_no_block():
    small, large = Sketch("m0", 0.8, 1000), Sketch("m1", 0.8, 10**4)
    small.num_layers, small.probe_layer = 4, 0
    cascade = Cascade([small, large], ThresholdPolicy.whole([Thresholds(0.5, 0.5)]))
    step = Step("m0", 0, Outcome.REJECTED_BY_P_IK, Reply("", 10, 0, 0.1, p_ik=0.1, rejected_by="p_ik"))
    assert step_costs(cascade, [step], [True])["flops"]["early-exit"].tolist() == [0.0]


def test_an_engine_that_does_not_stop_half_way_is_charged_whole_passes():
    small, large = Sketch("m0", 0.8, 1000), Sketch("m1", 0.8, 10**4)
    small.num_layers, small.probe_layer = 4, 1
    cascade = Cascade([small, large], ThresholdPolicy.whole([Thresholds(0.5, 0.5)]))
    step = Step("m0", 0, Outcome.REJECTED_BY_P_IK, Reply("", 10, 0, 0.1, p_ik=0.1, rejected_by="p_ik"))
    early = step_costs(cascade, [step], [True])["flops"]["early-exit"]
    small.exits_early = False
    whole = step_costs(cascade, [step], [True])["flops"]
    assert whole["early-exit"].tolist() == whole["full-path"].tolist() == (4 * early).tolist() == [2000.0]


def test_normalized_p_t_decides_only_where_there_are_options():
    models = [Sketch("m0", 0.8, 1), Sketch("m1", 0.8, 10)]
    cascade = Cascade(models, ThresholdPolicy.whole([Thresholds(0.5, None)]), normalize=True)
    answers = cascade.answer_many([Prompt("a", "?", letters=("A",)), Prompt("b", "?")], progress=False)
    assert [answer.model for answer in answers] == ["m1", "m0"]


def test_a_failure_that_is_not_the_prompts_is_not_blamed_on_it():
    models = [Sketch("m0", 0.1, 1), Sketch("m1", 0.1, 10)]
    cascade = Cascade(models, ThresholdPolicy.whole([Thresholds(0.5, None)]))
    journey = cascade.start(Prompt("a", "?"))
    cascade.fail(0, [journey], "too long", bad_prompt=True)
    cascade.fail(1, [journey], "down")
    assert (Answer.of(journey).failure, Answer.of(journey).bad_prompt) == ("down", False)


def test_p_ik_that_is_no_number_holds_nothing_back_where_it_is_not_asked():
    asked: list[list[bool]] = []

    class Probed(Sketch):
        num_layers, probe_layer = 2, 1

        def answer(self, prompts, gate=OPEN, on_token=None):
            if gate.p_ik is not None:
                asked.append(gate.p_ik(np.arange(len(prompts)), np.full(len(prompts), np.nan)).tolist())
            return super().answer(prompts, gate, on_token)

    asks, free = (ThresholdPolicy.whole([Thresholds(0.5, limit)]) for limit in (0.2, None))
    cascade = Cascade([Probed("m0", 0.8, 1), Sketch("m1", 0.8, 10)], asks)
    cascade.answer_many((), False, journeys=[cascade.start(Prompt(id, "?"), p) for id, p in (("a", asks), ("b", free))])
    assert asked == [[False, True]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chain": "mini-llama-small"}, "two or more different models"),
        ({"chain": "mini-llama-small,mini-llama-smal"}, "mini-llama-smal"),
        ({"chain": "mini-llama-small,mini-llama-small"}, "two or more different models"),
        ({"p_t": 1.5}, r"`p_t` to be in \[0, 1\], but got 1.5"),
        ({"policy": "nowhere.json"}, "nowhere.json"),
        ({"policy": "p.json", "p_t": 0.8, "p_ik": None}, "p.json, which has its own, and p_t=0.8, p_ik=None"),
        ({"policy": "p.json", "p_ik_reader": 0.5}, "but got both: .* and p_ik_reader=0.5"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(config, message):
    with pytest.raises(CascadeError, match=message):
        build_cascade(CascadeConfig(**config))


FITTED = {"signals": ["p_t"], "weights": [0, 1], "knots": [[0, 1], [0, 1]]}
TWO = ["mini-llama-small", "mini-llama-large"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thresholds": ["x"], "fused": {TWO[0]: FITTED}}, "could not convert"),
        ({"thresholds": [1.5], "fused": {TWO[0]: FITTED}}, "in \\[0, 1\\], but got 1.5"),
        ({"price": "much", "costs": [0, 1], "right": {TWO[0]: dict.fromkeys(TWO, FITTED)}}, "could not convert"),
        ({"price": 1, "costs": [1], "right": {TWO[0]: dict.fromkeys(TWO, FITTED)}}, "a price and 2 costs"),
        ({"price": 1, "costs": [0, 1], "right": {TWO[0]: {TWO[0]: FITTED}}}, "every later model's calibration"),
    ],
)
def test_a_policy_that_cannot_be_run_is_refused_as_it_is_read(values, message):
    with pytest.raises(CascadeError, match=message):
        policy_from_json({"models": TWO, **values}, TWO)


def test_a_policy_chosen_with_p_ik_is_not_run_without(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"models": TWO, "thresholds": [{"p_t": 0.9, "p_ik": 0.4}]}))
    bare = [Member(model=TWO[0], probe="none"), Member(model=TWO[1])]
    with pytest.raises(CascadeError, match="'mini-llama-small' to have a probe, as the policy in"):
        build_cascade(CascadeConfig(models=bare, policy=path))
    assert build_cascade(CascadeConfig(models=bare)).policy.name  # thresholds of every stage that has one
    path.write_text(json.dumps({"models": TWO, "thresholds": [{"p_t": 0.9, "p_ik": None}]}))
    build_cascade(CascadeConfig(models=bare, policy=path))


def test_a_member_is_a_model_or_an_endpoint():
    with pytest.raises(CascadeError, match="`model` or `endpoint`, and not both"):
        Member(model="a", endpoint="b")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{endpoint: b, probe: folder, dtype: bfloat16}", "settings of an endpoint for 'b', but got `probe`, `dtype`"),
        ("{endpoint: b, letters: bare}", "but got `letters`, of a decoder"),
        ("{model: b, spending_cap: 1}", "settings of a decoder for 'b', but got `spending_cap`, of an endpoint"),
        ("{model: b, cache: x.sqlite, parameters: 7}", "but got `cache`, `parameters`, of an endpoint"),
    ],
)
def test_a_setting_that_a_member_has_no_use_for_is_refused(tmp_path, entry, message):
    path = tmp_path / "cascade.yaml"
    path.write_text(f"models:\n- {entry}\n- {{model: a}}\n")
    with pytest.raises(CascadeError, match=message) as caught:
        CascadeConfig.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ENGINES)
def test_every_setting_of_an_engine_may_stand_in_yaml_and_comes_back(name):
    cls = engine_config(name)
    values = {"dtype": "bfloat16", "kind": "completions", "quantization": "4bit", "prompt_style": "chat"}
    values |= {"letters": "bare", "cache": "x.sqlite", "options": {"seed": 5}, "price": {"input": 1.0, "output": 2.0}}
    values |= {"trust_remote_code": True, "spending_cap": 1.5, "timeout": 2.5, "backoff": 0.25}
    values |= {"gpu_memory_utilization": 0.5, "enable_prefix_caching": False, "continues": True}
    whole = {"concurrency", "attempts", "parameters", "top_logprobs", "batch_size", "max_tokens", "max_model_len"}
    whole |= {"tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs", "max_num_batched_tokens"}
    given = {f.name: 7 if f.name in whole else values.get(f.name, "word") for f in fields(cls)}
    read = read_settings({"engine": name, **given})
    assert type(read) is cls and read.entry() == {"engine": name, **given}
    assert read.changed() == [f.name for f in fields(cls) if f.default is not MISSING]
    assert read_settings(read.entry()) == read
    if read.answers:
        entry = Member.read(read.entry() | ({"probe": "here"} if read.shows_states else {}))
        assert Member.read(entry.to_yaml()) == entry


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_vllm_says_how_to_install_it_and_takes_no_second_process():
    config = read_settings({"engine": "vllm", "model": "mini-llama-large", "tensor_parallel_size": 2})
    with pytest.raises(
        CascadeError, match=r"package vllm to be installed, .* pip install 'confidence-cascade\[vllm\]'"
    ):
        config.build()
    with pytest.raises(CascadeError, match="Expected one process for engine vllm, .* but got 3"):
        config.check_processes(3)


def test_a_value_of_another_type_and_an_engine_that_there_is_not_are_named():
    with pytest.raises(CascadeError, match="settings of a decoder for 'b', but .*batch_size"):
        Member.read({"model": "b", "batch_size": "many"})
    with pytest.raises(CascadeError, match="`engine` to be one of decoder, vllm, endpoint, encoder, but got 'magic'"):
        Member.read({"engine": "magic", "model": "b"})
    with pytest.raises(CascadeError, match="models that answer, but got an encoder, 'b', which only reads"):
        Member.read({"engine": "encoder", "encoder": "b"})
    with pytest.raises(CascadeError, match="to have 'model', as a decoder needs it"):
        Member.read({"engine": "decoder", "dtype": "float32"})
    with pytest.raises(CascadeError, match="`model` or `encoder`, and not both"):
        ReaderSettings(model="a", encoder="b", probe="p")
    with pytest.raises(CascadeError, match="a reader that shows hidden states, but got an endpoint, 'a'"):
        ReaderSettings(engine="endpoint", endpoint="a", probe="p")


def test_an_endpoint_may_be_said_to_have_no_probe():
    assert Member(endpoint="b", probe="none").probe == "none"
