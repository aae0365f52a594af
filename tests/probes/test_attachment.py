from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

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
