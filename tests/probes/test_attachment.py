from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, Gemma3TextConfig, GPT2Config, LlamaConfig, StaticCache

from cascade.miniature.families import ASSETS
from probes import HiddenStateCapture, Probe, ProbeConfig, ProbeError, attach, last_token_positions

CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, pad_token_id=0
    ),
    "gpt2": GPT2Config(vocab_size=50, n_embd=24, n_layer=3, n_head=2, pad_token_id=0, bos_token_id=0, eos_token_id=49),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    made.config._name_or_path = "/folder/of/base"
    return made


def probe(**changes) -> Probe:
    torch.manual_seed(1)
    return Probe(
        ProbeConfig(**({"hidden_size": 24, "layer": 2, "base_model": "base", "num_layers": 3} | changes))
    ).eval()


def batch(side: str = "left") -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 48, (3, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    if side == "right":
        mask = mask.flip(1)
    return {"input_ids": ids * mask, "attention_mask": mask}


def expected(model, inputs) -> torch.Tensor:
    """P(IK) by hand: each prompt alone, without its padding."""
    values = []
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        with HiddenStateCapture(model, [2]) as capture, torch.no_grad():
            kept = ids[mask.bool()][None]
            capture.arm(last_token_positions(torch.ones_like(kept)))
            model(input_ids=kept)
        values.append(float(probe().predict(capture.states[2])[0]))
    return torch.tensor(values)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_forward_pass_gives_p_ik_of_each_prompt(model, side):
    inputs = batch(side)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), attach(model, probe()) as attached:
        assert attached.p_ik is None
        model(**inputs, position_ids=positions)
    torch.testing.assert_close(attached.p_ik, expected(model, inputs), rtol=0, atol=1e-5)


def test_generation_keeps_p_ik_of_the_prompt_and_its_tokens(model):
    inputs, settings = batch(), {"max_new_tokens": 5, "do_sample": False}
    plain = model.generate(**inputs, **settings)
    with attach(model, probe()) as attached:
        generated = model.generate(**inputs, **settings)
    assert torch.equal(plain, generated)
    torch.testing.assert_close(attached.p_ik, expected(model, inputs), rtol=0, atol=1e-5)


def test_the_logits_do_not_change_and_no_hook_stays(model):
    inputs = batch()
    with torch.no_grad():
        before = model(**inputs).logits
        with attach(model, probe()):
            during = model(**inputs).logits
    assert torch.equal(before, during)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 12}, "hidden size 12 .* got 24"),
        ({"base_model": "other"}, "it is of other and this is /folder/of/base; allow_base_mismatch=True"),
        ({"num_layers": 9}, "base has 9 layers and this one 3"),
        ({"position": "mean"}, "reads mean"),
    ],
)
def test_a_model_that_is_not_the_probes_base_is_refused(model, changes, message):
    with pytest.raises(ProbeError, match=message):
        attach(model, probe(**changes))


def test_who_means_it_attaches_a_probe_of_another_base(model):
    with torch.no_grad(), attach(model, probe(base_model="other"), allow_base_mismatch=True) as attached:
        model(**batch())
    assert attached.p_ik is not None


@pytest.fixture(scope="module")
def mini():
    return AutoModelForCausalLM.from_pretrained(ASSETS / "mini-llama-small", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def sliding():
    """A model of two kinds of layers, whose masks come by kind, and whose window is shorter than the prompts."""
    torch.manual_seed(4)
    kinds = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
    shape = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Gemma3TextConfig(vocab_size=640, intermediate_size=32, head_dim=16, pad_token_id=0, **shape, **kinds)
    made = AutoModelForCausalLM.from_config(config).eval()
    made.config._name_or_path = "mini-llama-small"
    return made


MINI = ProbeConfig(hidden_size=48, layer=2, base_model="mini-llama-small")
# Rows are of 7, 4 and 1 tokens, so that chunks and caches end before, in and behind them.
KEPT = torch.tensor([[1] * 7, [0] * 3 + [1] * 4, [0] * 6 + [1]])


def mini_probe() -> Probe:
    torch.manual_seed(3)
    return Probe(MINI).eval()


def prompts(mask: torch.Tensor, seed: int = 0) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 200, mask.shape, generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids * mask, "attention_mask": mask}


def by_hand(model, ids, mask) -> torch.Tensor:
    """P(IK) of each prompt, alone and without its padding, in one pass."""
    values = []
    for row, kept in zip(ids, mask, strict=True):
        with HiddenStateCapture(model, [2]) as capture, torch.no_grad():
            capture.arm(kept.sum()[None] - 1)
            model(input_ids=row[kept.bool()][None])
        values.append(mini_probe().predict(capture.states[2]))
    return torch.tensor(np.concatenate(values))


WAYS = {
    "plain": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunks of 2": {"prefill_chunk_size": 2},
    "chunks of 2 in a static cache": {"prefill_chunk_size": 2, "cache_implementation": "static"},
    "sampling": {"do_sample": True},
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("base", ["mini", "sliding"])
def test_however_the_prompts_are_read_generation_is_the_same_and_p_ik_theirs(request, base, way, side):
    mini = request.getfixturevalue(base)
    inputs = prompts(KEPT if side == "left" else KEPT.flip(1))

    def generate() -> torch.Tensor:
        torch.manual_seed(0)
        return mini.generate(**inputs, **({"max_new_tokens": 4, "do_sample": False} | WAYS[way]))

    plain = generate()
    with attach(mini, mini_probe()) as attached:
        assert torch.equal(generate(), plain)
    torch.testing.assert_close(attached.p_ik, by_hand(mini, *inputs.values()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}])
def test_each_beam_and_each_sequence_has_the_p_ik_of_its_prompt(mini, settings):
    inputs = prompts(KEPT)
    with attach(mini, mini_probe()) as attached:
        mini.generate(**inputs, **({"max_new_tokens": 3, "do_sample": False} | settings))
    wanted = by_hand(mini, *inputs.values()).repeat_interleave(2)
    torch.testing.assert_close(attached.p_ik, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 1}])
def test_candidates_for_what_follows_are_not_taken_for_the_prompt(mini, settings):
    ids = torch.tensor([[7, 8, 9, 10, 7, 8, 9, 10, 7, 8]])
    plain = mini.generate(ids, max_new_tokens=8, do_sample=False, **settings)
    with attach(mini, mini_probe()) as attached:
        assert torch.equal(mini.generate(ids, max_new_tokens=8, do_sample=False, **settings), plain)
    torch.testing.assert_close(attached.p_ik, by_hand(mini, ids, torch.ones_like(ids)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cached", [1, 4, 6])
@pytest.mark.parametrize("chunk", [None, 2])
def test_a_prompt_whose_beginning_is_cached_has_its_own_p_ik(mini, cached, chunk):
    inputs = prompts(torch.ones(2, 7, dtype=torch.long))
    settings = {"max_new_tokens": 3, "do_sample": False, "prefill_chunk_size": chunk}

    def prefix() -> DynamicCache:
        with torch.no_grad():
            return mini(inputs["input_ids"][:, :cached], past_key_values=DynamicCache()).past_key_values

    plain = mini.generate(**inputs, past_key_values=prefix(), **settings)
    kept = prefix()
    with attach(mini, mini_probe()) as attached:
        assert torch.equal(mini.generate(**inputs, past_key_values=kept, **settings), plain)
    torch.testing.assert_close(attached.p_ik, by_hand(mini, *inputs.values()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("more", [1, 5])
@pytest.mark.parametrize("implementation", [DynamicCache, lambda: StaticCache(mini_config(), max_cache_len=40)])
def test_each_turn_on_a_kept_cache_has_its_own_p_ik(mini, implementation, more):
    cache, settings = implementation(), {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    said = prompts(KEPT[:2])
    with attach(mini, mini_probe()) as attached:
        for _ in range(3):
            ids = mini.generate(**said, past_key_values=cache, **settings)
            torch.testing.assert_close(attached.p_ik, by_hand(mini, *said.values()), rtol=0, atol=1e-5)
            ids = torch.cat([ids, torch.full((2, more), 11)], 1)
            mask = said["attention_mask"]
            said = {"input_ids": ids, "attention_mask": torch.cat([mask, mask.new_ones(2, 3 + more)], 1)}


def mini_config() -> LlamaConfig:
    return LlamaConfig.from_pretrained(ASSETS / "mini-llama-small")


def test_a_loop_of_calls_keeps_p_ik_of_its_prompts_in_one_pass_or_two(mini):
    inputs = prompts(KEPT.flip(1))
    wanted = by_hand(mini, *inputs.values())
    for pieces in ([7], [3, 4]):
        cache, mask = DynamicCache(), inputs["attention_mask"]
        with torch.no_grad(), attach(mini, mini_probe()) as attached:
            for number, ids in enumerate(inputs["input_ids"].split(pieces, 1)):
                mini(ids, mask[:, : sum(pieces[: number + 1])], past_key_values=cache)
            for _ in range(3):
                mask = torch.cat([mask, mask.new_ones(3, 1)], 1)
                mini(torch.full((3, 1), 9), mask, past_key_values=cache)
        torch.testing.assert_close(attached.p_ik, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["bool", "float"])
def test_a_mask_of_each_token_by_each_other_shows_the_padding(mini, form):
    inputs = prompts(KEPT.flip(1))
    mask = inputs["attention_mask"].bool()[:, None, None] & torch.ones(7, 7, dtype=torch.bool).tril()
    if form == "float":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.no_grad(), attach(mini, mini_probe()) as attached:
        mini(inputs["input_ids"], mask)
    torch.testing.assert_close(attached.p_ik, by_hand(mini, *inputs.values()), rtol=0, atol=1e-5)


def test_where_the_last_token_cannot_be_known_there_is_no_p_ik_and_one_warning(mini):
    inputs = prompts(torch.ones(2, 7, dtype=torch.long))
    empty = {"input_ids": inputs["input_ids"], "attention_mask": torch.tensor([[1] * 7, [0] * 7])}
    with torch.no_grad():
        other = mini(inputs["input_ids"], past_key_values=DynamicCache()).past_key_values
        logits = mini(**empty).logits
        with attach(mini, mini_probe()) as attached, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mini(**inputs)
            assert attached.p_ik is not None
            mini(torch.full((2, 1), 9), past_key_values=other)  # a prompt's token, or a generated one
            assert attached.p_ik is None
            mini(**inputs)
            assert torch.equal(mini(**empty).logits, logits)
            assert attached.p_ik is None
            mini.generate(**empty, max_new_tokens=2)
            assert attached.p_ik is None
            mini(**inputs)
            assert attached.p_ik is not None
    assert sum("p_ik is None" in str(one.message) for one in caught) == 1


def test_a_call_that_fails_leaves_no_p_ik_and_nothing_behind(mini):
    inputs = prompts(KEPT)
    with attach(mini, mini_probe()) as attached:
        mini.generate(**inputs, max_new_tokens=1)
        with pytest.raises(IndexError):
            mini.generate(inputs["input_ids"] + 10**6, max_new_tokens=1)
        assert attached.p_ik is None
        mini.generate(**inputs, max_new_tokens=1)
    torch.testing.assert_close(attached.p_ik, by_hand(mini, *inputs.values()), rtol=0, atol=1e-5)
    assert "generate" not in vars(mini)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in mini.modules())
