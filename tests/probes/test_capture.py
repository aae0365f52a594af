from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen3Config,
)

from probes import HiddenStateCapture, ProbeError, last_token_positions

SHAPE = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, intermediate_size=32, num_key_value_heads=1, pad_token_id=0),
    "qwen3": Qwen3Config(**SHAPE, intermediate_size=32, num_key_value_heads=1, head_dim=12, pad_token_id=0),
    "gpt2": GPT2Config(vocab_size=50, n_embd=24, n_layer=3, n_head=2, pad_token_id=0, bos_token_id=0, eos_token_id=0),
    "gpt_neox": GPTNeoXConfig(**SHAPE, intermediate_size=32, pad_token_id=0, bos_token_id=0, eos_token_id=0),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()


def test_layers_below_the_last_are_those_of_output_hidden_states(model):
    ids = torch.randint(1, 50, (4, 7))
    with HiddenStateCapture(model, "all") as capture, torch.no_grad():
        capture.arm(torch.full((4,), 6))
        reference = model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in range(3):
        torch.testing.assert_close(capture.states[layer], reference[layer][:, -1])


def test_the_last_layer_is_taken_before_the_final_norm(model):
    ids = torch.randint(1, 50, (2, 5))
    with HiddenStateCapture(model, [3]) as capture, torch.no_grad():
        capture.arm(torch.tensor([4, 4]))
        normed = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, -1]
    inner = model.base_model
    norm = getattr(inner, "norm", None) or getattr(inner, "ln_f", None) or inner.final_layer_norm
    assert not torch.allclose(capture.states[3], normed)
    torch.testing.assert_close(norm(capture.states[3]), normed)


def test_the_outputs_of_the_model_do_not_change_and_no_hook_stays(model):
    ids = torch.randint(1, 50, (2, 5))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with HiddenStateCapture(model) as capture:
            capture.arm(torch.tensor([4, 2]))
            during = model(input_ids=ids).logits
    assert torch.equal(before, during)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_only_the_prompt_is_captured_while_generating(model):
    ids = torch.randint(1, 50, (3, 6))
    with HiddenStateCapture(model) as capture, torch.no_grad():
        capture.arm(torch.full((3,), 5))
        model(input_ids=ids)
        prompt = dict(capture.states)
        capture.arm(torch.full((3,), 5))
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    for layer, state in prompt.items():
        torch.testing.assert_close(capture.states[layer], state)


def test_an_encoder_is_read_as_the_mean_over_its_tokens():
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(vocab_size=50, **shape)).eval()
    ids, lengths = torch.randint(1, 50, (3, 7)), [7, 4, 1]
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None]).long()
    with HiddenStateCapture(model) as capture, torch.no_grad():
        capture.arm_mean(mask)
        reference = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer in range(4):
        expected = torch.stack([reference[layer][row, :length].mean(0) for row, length in enumerate(lengths)])
        torch.testing.assert_close(capture.states[layer], expected)


def test_last_token_positions_on_either_side():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    expected = [max(i for i, there in enumerate(row) if there) for row in mask.tolist()]
    assert last_token_positions(mask).tolist() == expected
    with pytest.raises(ProbeError, match="at least one token"):
        last_token_positions(torch.tensor([[1, 1], [0, 0]]))


@pytest.mark.parametrize("layers", [[4], [-1], [], "some"])
def test_a_layer_that_is_not_there_is_named(model, layers):
    with pytest.raises(ProbeError, match="layers"):
        HiddenStateCapture(model, layers)
