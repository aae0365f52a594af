"""The miniature's tokenizer: one token a word, and one for each fixed stretch of the paper's prompts.

A standard `tokenizers` file, so that `AutoTokenizer` loads it like any other.
"""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from cascade.tasks.base import (
    ANSWER_PREFIX,
    MULTIPLE_CHOICE_FORMAT,
    MULTIPLE_CHOICE_HEADER,
    OPEN_ENDED_HEADER,
)
from cascade.tasks.miniature import ABSTENTION, BENCHMARKS, benchmark
from cascade.tasks.world import RELATIONS, build_world
from experiments.miniature.stream import TrainingStream

SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
PHRASES = (
    MULTIPLE_CHOICE_HEADER,
    MULTIPLE_CHOICE_FORMAT.format(letters="A, B, C or D") + "\nQuestion:",
    OPEN_ENDED_HEADER + "\nQuestion:",
    "\nChoices:\nA.",
    "\nB.",
    "\nC.",
    "\nD.",
    f"\n{ANSWER_PREFIX}",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the default world; the vocabulary is every word its questions can hold, sorted."""
    pattern = "|".join([*map(re.escape, PHRASES), " ?[A-Za-z]+", " ?[0-9]+", "\n", r" ?[^\sA-Za-z0-9]", r"\s"])
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    words = {f" {n}" for n in range(100)}

    def collect(text: str) -> None:
        words.update(piece for piece, _ in split.pre_tokenize_str(text))

    world = build_world()
    for relation in RELATIONS:
        for entity in world.entities[relation.kind]:
            for template in relation.templates:
                collect(" " + template.format(entity.name))
        for answer in world.pools[relation.name]:
            collect(f" {answer}")
    for name in (*world.first_names, *world.strangers["person"], *world.strangers["book"]):
        collect(f" {name}")
    for name in BENCHMARKS:
        task = benchmark(name)
        for question in task.questions:
            collect(task.prompt(question))
    stream = TrainingStream(seed=0, steps=30)
    for step in range(30):
        for example in stream.batch(step, 64):
            collect(example.prompt)
    collect(ABSTENTION)
    collect(ANSWER_PREFIX)
    words.update(f" {letter}" for letter in "ABCD")
    words -= set(PHRASES)
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *PHRASES, *sorted(words)))}

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
