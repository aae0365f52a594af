"""What prompts share is read once, and everything is as if it had been read each time."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig, Qwen3NextConfig

from cascade.engines.base import prompt_of
from cascade.engines.local import LocalModel
from cascade.engines.passes import of_like_length
from cascade.engines.settings import DecoderConfig
from cascade.engines.shared_prefix import LEAST, is_shareable, shared_length
from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.scoring.scored import score, score_share
from cascade.tasks.load import load_task

SHOTS = 3
TASK = load_task("mini-mmlu", SHOTS).take(range(40))
tokens = st.integers(0, 2)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory) -> str:
    """A Gemma of random weights, every other block of which sees the last 16 tokens alone."""
    folder = tmp_path_factory.mktemp("gemma")
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small")
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=16, max_position_embeddings=1024,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    Gemma3ForCausalLM(config).save_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[me] "
    tokenizer.save_pretrained(folder)
    return str(folder)


@given(
    st.lists(tokens, max_size=6),
    st.lists(st.tuples(st.lists(tokens, max_size=6), st.lists(tokens, min_size=1, max_size=4)), min_size=1, max_size=5),
)
def test_as_many_tokens_are_shared_as_all_rows_begin_with(head, rows):
    head = [9] * LEAST + head
    rows = [[9] * LEAST + before + after for before, after in rows]
    found = shared_length(head, rows)
    assert found == max(n for n in range(len(head) + 1) if all(len(row) > n and row[:n] == head[:n] for row in rows))


def test_a_few_tokens_are_not_worth_a_pass():
    assert shared_length([1] * LEAST, [[1] * (LEAST + 1)]) == LEAST
    assert shared_length([1] * LEAST, [[1] * LEAST]) == 0  # one has to be left
    assert shared_length([1] * (LEAST - 1), [[1] * (LEAST + 1)]) == 0


@pytest.mark.parametrize(
    ("name", "style"),
    [("mini-llama-medium", "raw"), ("mini-qwen3-medium", "raw"), ("windowed", "raw"), ("windowed", "chat")],
)
@pytest.mark.parametrize("written", [0, 6])
def test_a_batch_is_as_if_every_prompt_were_read_alone(name, style, written, request):
    source = request.getfixturevalue(name) if name == "windowed" else name
    model = DecoderConfig(source, prompt_style=style).build().decoder
    prompts = [
        prompt_of(question, TASK) for question in TASK.questions if question.subject == TASK.questions[0].subject
    ]
    texts, shared = [prompt.text for prompt in prompts], prompts[0].shared
    assert all(text.startswith(shared) for text in texts) and len({len(text) for text in texts}) > 1
    read = []
    hook = model.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    for side in ("left", "right"):
        read.clear()
        together = model.run(texts, max_new_tokens=written, padding_side=side, shared=shared)
        again = model.run(texts, max_new_tokens=written, padding_side=side, shared=shared)
        if not written:
            shortest, longest = (of(model.count_tokens(texts)) for of in (min, max))
            head, first, second = read if len(read) == 3 else (0, *read)  # the other side has read the head already
            assert first == second and longest * len(texts) > head + first
            assert head == 0 or shortest > head >= LEAST
        assert torch.equal(together.first_token, again.first_token)
        for place, text in enumerate(texts):
            alone = model.run([text], max_new_tokens=written)
            assert together.first_token[place].exp() == pytest.approx(alone.first_token[0].exp(), abs=1e-5)
            assert together.prompt_tokens[place] == alone.prompt_tokens[0]
            for layer, state in alone.states.items():
                assert torch.linalg.norm(together.states[layer][place] - state[0]) <= 1e-5 * torch.linalg.norm(state[0])
            if written:
                assert together.texts[place] == alone.texts[0]
    hook.remove()


def test_states_that_are_no_keys_and_values_are_not_shared():
    hybrid = Qwen3NextConfig(num_hidden_layers=4, layer_types=["linear_attention", "full_attention"] * 2)
    assert not is_shareable(DynamicCache(config=hybrid), keep=False)
    windows = DynamicCache(config=Gemma3TextConfig(num_hidden_layers=2))
    assert is_shareable(windows, keep=False) and not is_shareable(windows, keep=True)


def test_batches_are_of_prompts_that_share_and_no_token_of_examples_counts_twice():
    groups = [place % 3 for place in range(30)]
    batches = list(of_like_length(range(30), [5] * 30, 4, None, groups))
    assert all(len({groups[place] for place in batch}) == 1 for batch in batches)
    assert sorted(place for batch in batches for place in batch) == list(range(30))


def scored_files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("seconds")}


def test_a_scored_task_with_examples_is_as_if_they_had_been_read_each_time_and_goes_on_to_the_same_bytes(tmp_path):
    model = DecoderConfig("mini-llama-medium").build()
    whole = score(model, TASK, tmp_path / "once", batch_size=8)
    model.release()
    plain = LocalModel(model.decoder)
    plain.reads_shared_once = False
    every = score(plain, TASK, tmp_path / "each", batch_size=8)
    assert plain.decoder._last_head is None
    for name in ("p_t", "p_right", "option_mass"):
        assert whole.table()[name].to_numpy() == pytest.approx(every.table()[name].to_numpy(), abs=1e-5)
    assert whole.table()["prompt_tokens"].equals(every.table()["prompt_tokens"])
    for layer in whole.store.layers:
        torch.testing.assert_close(whole.store.layer(layer), every.store.layer(layer), atol=1e-4, rtol=1e-4)

    passes = iter(range(3))

    def stop() -> None:
        if next(passes) == 2:
            raise CascadeError("enough")

    with pytest.raises(CascadeError, match="enough"):
        score_share(model, TASK, tmp_path / "stopped", batch_size=8, check=stop)
    gone_on = score(DecoderConfig("mini-llama-medium").build(), TASK, tmp_path / "stopped", batch_size=8)
    assert not gone_on.reused
    assert scored_files(gone_on.store.folder) == scored_files(whole.store.folder)
    assert json.loads((gone_on.store.folder / "manifest.json").read_text())
