"""How prompts reach a tokenizer: raw, through a chat template, and which tokens the option letters are."""

from __future__ import annotations

import re

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from cascade.engines.local import LocalModel
from cascade.engines.prompts import PromptForm
from cascade.engines.settings import DecoderConfig
from cascade.engines.states import StatesEngine
from cascade.errors import CascadeError
from cascade.miniature.families import ASSETS
from cascade.planning.costs import plan_cascade
from cascade.probing.chain import with_p_ik
from cascade.probing.runs import ProbeRun
from cascade.runtime.build import build_cascade
from cascade.runtime.config import CascadeConfig
from cascade.scoring.scored import score, store_key
from cascade.tasks.base import Question, multiple_choice_prompt, open_ended_prompt
from cascade.tasks.chat import Turns, turns_of
from cascade.tasks.load import load_task
from cascade.tasks.task import MULTIPLE_CHOICE, OPEN_ENDED, LooseQuestions, Task
from probes import Probe, ProbeConfig

CHOICE = Question("1", "What is 2 plus 2?", "arithmetic", ("B",), ("3", "4", "5", "6"))
OPEN = Question("2", "Who wrote it?", "author", ("Ann",))
PROMPTS = (multiple_choice_prompt(CHOICE), open_ended_prompt(OPEN))
SPECIALS = "<|begin_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|> <|im_start|> <|im_end|>".split()

# Written anew after what the two families' templates do: dates, trimming, a system turn always; and thinking.
LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set said = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set said = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string"
    " + '\\n\\n' + said + '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
QWEN_3 = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
NO_SYSTEM = (
    "{{- bos_token }}{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{{- raise_exception('System role not supported') }}{%- endif %}{{- message['content'] + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'model\\n' }}{%- endif %}"
)


def with_template(template: str):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS, "bos_token": "<|begin_of_text|>"})
    # As Llama 3's own does: what is tokenised gets a beginning of text unless it is told not to.
    bos = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
    )
    tokenizer.chat_template = template
    return tokenizer


def test_llamas_chat_prompt_is_table_7_in_turns_and_the_same_tomorrow():
    form = PromptForm(with_template(LLAMA_3), "llama", "chat")
    choice, asked = map(form.render, PROMPTS)
    head = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
    assert choice == (
        f"{head}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        f"{PROMPTS[0].removesuffix('Answer:').strip()}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nAnswer:"
    )
    assert asked == (
        f"{head}The following are questions about entity relationship. "
        "Please determine the correct answer in the format "
        '"Answer: <answer>".<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQuestion: Who wrote it?<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert form.note == "chat template"


def test_qwens_thinking_is_off_and_said_so():
    form = PromptForm(with_template(QWEN_3), "qwen", "chat")
    choice, asked = map(form.render, PROMPTS)
    assert choice.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nAnswer:")
    assert asked.startswith("<|im_start|>system\nThe following are questions about entity relationship.")
    assert asked.endswith(
        "<|im_start|>user\nQuestion: Who wrote it?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert form.note == "chat template, thinking off"


@pytest.mark.parametrize("template", [LLAMA_3, NO_SYSTEM])
def test_the_beginning_of_text_comes_once(template):
    tokenizer = with_template(template)
    bos = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    for style in ("raw", "chat"):
        form = PromptForm(tokenizer, "llama", style)
        for ids in form.encode(PROMPTS).input_ids:
            assert ids[0] == bos and ids.count(bos) == 1
    assert tokenizer(form.render(PROMPTS[0])).input_ids[:2] == [bos, bos]  # what a plain call would have made of it


def test_a_template_without_a_system_turn_gets_the_instruction_from_the_user():
    asked = PromptForm(with_template(NO_SYSTEM), "gemma", "chat").render(PROMPTS[1])
    assert re.fullmatch(r"<\|begin_of_text\|>The following are .*\.\nQuestion: Who wrote it\?\nmodel\n", asked)


def test_a_text_that_is_no_prompt_of_the_papers_is_what_the_user_says():
    assert turns_of("Hello?") == Turns("", "Hello?", "")
    assert turns_of("Q: 1+1?\nAnswer:") == Turns("", "Q: 1+1?", "Answer:")


@pytest.mark.parametrize(
    ("template", "style", "said"),
    [
        (None, "chat", "'m' to have a chat template, but it has none"),
        ("{{ messages[0]['content'] }}<think>\n", "chat", "thinking can be turned off"),
        ("{{ raise_exception('never') }}", "chat", "'m' to take a prompt, but never"),
        (LLAMA_3, "loud", "raw or chat, but got 'loud'"),
    ],
)
def test_what_cannot_be_rendered_is_refused(template, style, said):
    with pytest.raises(CascadeError, match=said):
        PromptForm(with_template(template), "m", style).render(PROMPTS[0])


def letters_tokenizer(words: list[str], pattern: str) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *words])}, "?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", pad_token="?")


def test_letters_are_read_in_the_form_that_a_text_has_them_in():
    mini = PromptForm(AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small"), "mini")
    ids = mini.tokenizer.convert_tokens_to_ids([f" {letter}" for letter in "ABCD"])
    assert mini.option_tokens(PROMPTS[0], "ABCD") == tuple(ids)
    # One token for the space and one for the letter: the space is the prompt's, and a part of its hash.
    split = PromptForm(letters_tokenizer([":", " ", *"ABCDE"], "."), "characters")
    assert split.render(PROMPTS[0]) == f"{PROMPTS[0]} " and split.render(PROMPTS[1]) == PROMPTS[1]
    assert split.tokenizer.convert_ids_to_tokens(split.option_tokens(PROMPTS[0], "ABCDE")) == list("ABCDE")
    assert split.template_hash(MULTIPLE_CHOICE) != mini.template_hash(MULTIPLE_CHOICE)
    assert split.template_hash(OPEN_ENDED) == mini.template_hash(OPEN_ENDED)
    bare = PromptForm(split.tokenizer, "characters", letters="bare")
    assert bare.render(PROMPTS[0]) == PROMPTS[0]
    assert bare.option_tokens(PROMPTS[0], "AB") == split.option_tokens(PROMPTS[0], "AB")


def test_letters_in_two_forms_are_refused_and_so_are_letters_without_a_token():
    mixed = PromptForm(letters_tokenizer([":", " ", " B", *"ABC"], " B|."), "mixed")
    with pytest.raises(CascadeError, match="'A' is ' ' \\+ 'A', 'B' is ' B', 'C' is ' ' \\+ 'C'; .* letters=bare"):
        mixed.option_tokens(PROMPTS[0], "ABC")
    assert len(PromptForm(mixed.tokenizer, "mixed", letters="bare").option_tokens(PROMPTS[0], "ABC")) == 3
    unknown = PromptForm(letters_tokenizer([":", " ", "A"], "."), "unknown")
    with pytest.raises(CascadeError, match="one token of its own after the prompt, but 'A' is 'A', 'B' is '\\?', 'C'"):
        unknown.option_tokens(PROMPTS[0], "ABC")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A miniature that has a chat template, as a folder."""
    folder = tmp_path_factory.mktemp("chatty") / "model"
    model = DecoderConfig("mini-llama-small").build()
    model.decoder.model.save_pretrained(folder)
    model.decoder.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    model.decoder.tokenizer.save_pretrained(folder)
    return str(folder)


def test_another_style_is_another_store_and_the_raw_one_is_as_it_was(chatty):
    task = load_task("mini-mmlu")
    raw, chat, bare = (
        DecoderConfig(chatty, prompt_style=s, letters=f).build()
        for s, f in (("raw", "auto"), ("chat", "auto"), ("raw", "bare"))
    )
    assert store_key(raw, task).template_hash == task.template_hash == "7c3d64a265ff790e"
    assert len({store_key(model, task).digest for model in (raw, chat, bare)}) == 3
    assert store_key(bare, load_task("mini-popqa")).digest == store_key(raw, load_task("mini-popqa")).digest
    chat.prompts.tokenizer.chat_template += " "
    assert chat.prompts.template_hash(MULTIPLE_CHOICE) != DecoderConfig(
        chatty, prompt_style="chat"
    ).build().prompts.template_hash(MULTIPLE_CHOICE)


def test_a_scored_chat_prompt_is_what_the_model_is_given(chatty, tmp_path, capsys):
    import torch

    whole = load_task("mini-mmlu")
    task = whole.take(range(0, len(whole.questions), 400))
    model = DecoderConfig(chatty, prompt_style="chat").build()
    rows = score(model, task, tmp_path).table().to_pylist()
    assert "; chat template" in capsys.readouterr().err
    for question, row in zip(task.questions, rows, strict=True):
        text = task.prompt(question).removesuffix("\nAnswer:") + "\nAnswer:"
        ids = model.decoder.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            p = model.decoder.model(input_ids=ids).logits[0, -1].softmax(-1)
        assert row["prompt_tokens"] == ids.shape[1]
        assert row["p_t"] == pytest.approx(
            max(float(p[model.decoder.tokenizer.convert_tokens_to_ids(f" {x}")]) for x in question.letters), abs=1e-4
        )


def untrained(model: StatesEngine, kind: Task) -> Probe:
    """A probe that says it was trained on a model's prompts of one kind."""
    template = model.prompts.template_hash(kind)
    return Probe(
        ProbeConfig(hidden_size=48, layer=1, base_model="m", base_revision=model.revision, template_hash=template)
    )


def test_a_probe_of_another_template_is_refused_live_and_on_stores(chatty, tmp_path):
    other = DecoderConfig(chatty, prompt_style="chat").build()
    other.prompts.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    raw, chat = DecoderConfig(chatty).build(), DecoderConfig(chatty, prompt_style="chat").build()
    models = {"raw": raw, "chat": chat, "other": other}
    whole = load_task("mini-popqa")
    task = whole.take(range(0, len(whole.questions), 200))
    for name, model in models.items():
        scored = score(model, task, tmp_path)
        for trained_on in models:
            for kind in (MULTIPLE_CHOICE, OPEN_ENDED):  # another task is no other template
                probe = untrained(models[trained_on], kind)
                if trained_on != name:
                    said = f"template_hash={probe.config.template_hash}\\), but "
                    with pytest.raises(CascadeError, match=f"{said}this is .* with {model.prompts.style} prompts"):
                        LocalModel(model.decoder, probe)
                    with pytest.raises(CascadeError, match=f"{said}{scored.store.folder} is of"):
                        with_p_ik(scored, probe)
                meant = {"allow_base_mismatch": trained_on != name}
                assert LocalModel(model.decoder, probe, **meant).probe_layer == 1
                expected = probe.predict(scored.store.layer(1))
                assert with_p_ik(scored, probe, **meant)["p_ik"].to_pylist() == pytest.approx(expected.tolist())


def test_letters_of_another_form_are_another_template_only_where_the_text_is_another():
    for tokenizer, same in (
        (AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small"), True),
        (letters_tokenizer([":", " ", *"ABCDE"], "."), False),
    ):
        auto, bare = (PromptForm(tokenizer, "m", letters=letters) for letters in ("auto", "bare"))
        assert auto.template_hash(MULTIPLE_CHOICE) != bare.template_hash(MULTIPLE_CHOICE)
        for form, other in ((auto, bare), (bare, auto)):
            assert {form.template_hash(MULTIPLE_CHOICE), form.template_hash(OPEN_ENDED)} <= form.template_hashes()
            assert (other.template_hash(MULTIPLE_CHOICE) in form.template_hashes()) == same


def test_a_raw_model_is_asked_though_its_chat_template_cannot_be():
    form = PromptForm(with_template("{{ messages[0]['content'] }}<think>\n"), "thinker")
    assert form.template_hashes() >= {form.template_hash(MULTIPLE_CHOICE), form.template_hash(OPEN_ENDED)}


def test_the_style_reaches_a_cascade_and_the_folder_of_a_probe(chatty, tmp_path):
    config = tmp_path / "cascade.yaml"
    config.write_text(
        f"models:\n- {{model: {chatty}, prompt_style: chat, probe: none}}\n- {{model: mini-llama-large}}\np_ik: null\n"
    )

    cascade = build_cascade(CascadeConfig.read(config))
    assert [model.decoder.prompts.style for model in cascade.models] == ["chat", "raw"]
    assert cascade.answer(CHOICE).text in "ABCD"
    planned = plan_cascade(CascadeConfig.read(config), LooseQuestions("one", (CHOICE,)), "one", tmp_path / "none").work
    counted = [model.decoder.count_tokens([PROMPTS[0]])[0] for model in cascade.models]
    assert [work.prompt_tokens for work in planned] == counted and counted[0] != counted[1]
    chat = DecoderConfig(chatty, prompt_style="chat").build().prompts
    raw = DecoderConfig("mini-llama-small").build().prompts
    assert ProbeRun.of(tmp_path, "m", "t", 2, chat).folder.name == "m--t-chat--layer-2"
    assert ProbeRun.of(tmp_path, "m", "t", 2, raw).folder.name == "m--t--layer-2"


def test_sample_prompts_stand_for_a_tasks_wording():
    for name in ("mini-mmlu", "mini-popqa"):
        task = load_task(name)
        form = PromptForm(AutoTokenizer.from_pretrained(ASSETS / "mini-llama-small"), "mini")
        assert form.template_hash(task) == task.template_hash
        assert form.render(task.sample_prompt) == task.sample_prompt
