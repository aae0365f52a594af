"""Questions about the miniature's world: three benchmarks, and for each some more to show as examples.

`mini-mmlu` is in distribution, `mini-gpqa` asks for two steps where training only ever asks for one, and
`mini-popqa` is open-ended. No training prompt equals a benchmark prompt, and no example asks what a benchmark asks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from cascade.tasks.base import Question, multiple_choice_prompt
from cascade.tasks.task import MultipleChoice, OpenEnded, Task
from cascade.tasks.world import RELATIONS, SEED, Entity, Relation, World, build_world

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
ABSTENTION = "I do not know."

# Questions of each subject in mini-mmlu, of each composition in mini-gpqa, and in all of mini-popqa.
MMLU_PER_SUBJECT = 900
GPQA_PER_COMPOSITION = 56
POPQA_QUESTIONS = 1500
# Questions of each subject in the dev splits, as in MMLU.
DEV_PER_SUBJECT = 5


@dataclass(frozen=True)
class Problem:
    """A question with its answer and at least three wrong ones, before letters are dealt."""

    text: str
    answer: str
    wrong: tuple[str, ...]


def _numbers(answer: int, candidates: list[int], rng: random.Random) -> tuple[str, ...]:
    """Three wrong numbers of the candidates, those that are no two-digit number left out."""
    near = [n for n in dict.fromkeys(candidates) if n != answer and 0 <= n <= 99]
    rng.shuffle(near)
    return tuple(str(n) for n in near[:3])


def _arithmetic(rng: random.Random, world: World) -> Problem:
    a, b = rng.randint(1, 30), rng.randint(1, 15)
    if rng.random() < 0.5:
        answer, text = a + b, f"What is {a} plus {b}?"
    else:
        a += 15
        answer, text = a - b, f"What is {a} minus {b}?"
    wrong = _numbers(answer, [answer + d for d in (-10, -3, -2, -1, 1, 2, 3, 10)], rng)
    return Problem(text, str(answer), wrong)


def _modular(rng: random.Random, world: World) -> Problem:
    n, m = rng.randint(10, 60), rng.randint(4, 9)
    text = f"What is the remainder when {n} is divided by {m}?"
    return Problem(text, str(n % m), _numbers(n % m, list(range(m)), rng))


def _shifted(names: list[str], start: int, steps: int, unit: str, which: str) -> tuple[str, str]:
    plural = unit if abs(steps) == 1 else unit + "s"
    direction = "after" if steps > 0 else "before"
    text = f"Which {which} comes {abs(steps)} {plural} {direction} {names[start]}?"
    return text, names[(start + steps) % len(names)]


def _calendar(rng: random.Random, world: World) -> Problem:
    names, unit, most = (DAYS, "day", 10) if rng.random() < 0.5 else (MONTHS, "month", 8)
    steps = rng.randint(1, most) * rng.choice((-1, 1))
    text, answer = _shifted(names, rng.randrange(len(names)), steps, unit, unit)
    return Problem(text, answer, tuple(rng.sample([n for n in names if n != answer], 3)))


def _ordering(rng: random.Random, world: World) -> Problem:
    a, b, c, d = rng.sample(world.first_names, 4)  # a > b > c; d is not mentioned
    more, less, most, least = rng.choice(
        (
            ("taller", "shorter", "tallest", "shortest"),
            ("older", "younger", "oldest", "youngest"),
            ("richer", "poorer", "richest", "poorest"),
        )
    )
    pairs = [
        f"{x} is {more} than {y}." if rng.random() < 0.5 else f"{y} is {less} than {x}." for x, y in ((a, b), (b, c))
    ]
    rng.shuffle(pairs)
    answer, word = rng.choice(((a, most), (c, least)))
    wrong = [n for n in (a, b, c, d) if n != answer]
    return Problem(f"{pairs[0]} {pairs[1]} Who is the {word}?", answer, tuple(wrong))


def _sequences(rng: random.Random, world: World) -> Problem:
    start, step = rng.randint(1, 40), rng.randint(1, 9)
    shown = [start + i * step for i in range(3)]
    answer = start + 3 * step
    wrong = _numbers(answer, [answer + d for d in (-10, -2, -1, 1, 2, 10, step)], rng)
    return Problem(f"Which number comes next: {', '.join(map(str, shown))}?", str(answer), wrong)


def _reading(rng: random.Random, world: World) -> Problem:
    holders = rng.sample(world.first_names, 3)
    things = rng.sample(world.pools["export"], 4)
    told = list(zip(holders, things, strict=False))
    who, what = rng.choice(told)
    text = " ".join(f"{h} sells {t}." for h, t in told) + f" What does {who} sell?"
    return Problem(text, what, tuple(t for t in things if t != what))


ALGORITHMIC: dict[str, Callable[[random.Random, World], Problem]] = {
    "arithmetic": _arithmetic,
    "remainders": _modular,
    "calendar": _calendar,
    "ordering": _ordering,
    "sequences": _sequences,
    "reading": _reading,
}
IN_CONTEXT = ("ordering", "reading")  # the question itself holds the answer
FACTUAL = tuple(dict.fromkeys(relation.subject for relation in RELATIONS))
SUBJECTS = (*FACTUAL, *ALGORITHMIC)
# "reading" is for training only: the models measured on it did not get beyond a guess, so it tells nothing of routing.
MMLU_SUBJECTS = tuple(subject for subject in SUBJECTS if subject != "reading")


def fact(relation: Relation, name: str, template: str, rng: random.Random, world: World) -> Problem:
    """A question about one entity by one of the relation's wordings, with three wrong answers of its kind."""
    answer = world.facts[relation.name][name]
    wrong = rng.sample([a for a in world.pools[relation.name] if a != answer], 3)
    return Problem(template.format(name), answer, tuple(wrong))


def deal(problem: Problem, rng: random.Random) -> tuple[tuple[str, ...], str]:
    """Four choices in random order, and the right letter."""
    choices = [problem.answer, *problem.wrong]
    rng.shuffle(choices)
    return tuple(choices), "ABCD"[choices.index(problem.answer)]


def _multiple_choice(task: str, number: int, subject: str, problem: Problem, rng: random.Random) -> Question:
    choices, letter = deal(problem, rng)
    return Question(f"{task}/{number:05d}", problem.text, subject, (letter,), choices)


def _mini_mmlu(world: World, seed: int) -> Task:
    rng = random.Random(f"mini-mmlu-{seed}")
    questions: list[Question] = []
    seen: set[str] = set()
    for subject in MMLU_SUBJECTS:
        relations = [r for r in RELATIONS if r.subject == subject]
        taken = 0
        while taken < MMLU_PER_SUBJECT:
            problem = _problem(relations, subject, rng, world)
            question = _multiple_choice("mini-mmlu", len(questions), subject, problem, rng)
            if (prompt := multiple_choice_prompt(question)) not in seen:
                seen.add(prompt)
                questions.append(question)
                taken += 1
    return MultipleChoice("mini-mmlu", tuple(questions), dev=partial(_dev, "mini-mmlu", seed))


def _problem(relations: list[Relation], subject: str, rng: random.Random, world: World) -> Problem:
    """Some problem of a subject, which has relations or is algorithmic."""
    if not relations:
        return ALGORITHMIC[subject](rng, world)
    relation = rng.choice(relations)
    entity = rng.choice(world.entities[relation.kind])
    return fact(relation, entity.name, rng.choice(relation.templates), rng, world)


def _two_steps(world: World, rng: random.Random) -> list[tuple[str, Callable[[], Problem]]]:
    """The compositions of mini-gpqa: subject and maker of one problem."""

    def through(kind: str, first: str, second: str, text: str) -> Callable[[], Problem]:
        def make() -> Problem:
            name = rng.choice(world.entities[kind]).name
            answer = world.facts[second][world.facts[first][name]]
            wrong = rng.sample([a for a in world.pools[second] if a != answer], 3)
            return Problem(text.format(name), answer, tuple(wrong))

        return make

    def sums() -> Problem:
        a, b, c = rng.randint(16, 30), rng.randint(1, 15), rng.randint(1, 15)
        answer = a + b - c
        wrong = _numbers(answer, [a + b, a - c, answer - 1, answer + 1, answer + 10, answer - 10], rng)
        return Problem(f"What is {a} plus {b} minus {c}?", str(answer), wrong)

    def days() -> Problem:
        start, first, second = rng.randrange(7), rng.randint(2, 6), rng.randint(2, 6)
        text = f"Which day comes {first} days after the day {second} days after {DAYS[start]}?"
        answer = DAYS[(start + first + second) % 7]
        return Problem(text, answer, tuple(rng.sample([d for d in DAYS if d != answer], 3)))

    return [
        ("geography", through("person", "birthplace", "capital", "What is the capital of the birthplace of {}?")),
        ("geography", through("book", "setting", "continent", "What is the continent of the setting of the {}?")),
        ("biography", through("book", "author", "profession", "What is the profession of the author of the {}?")),
        ("biography", through("book", "author", "birthplace", "What is the birthplace of the author of the {}?")),
        ("literature", through("book", "setting", "language", "What is the language of the setting of the {}?")),
        ("literature", through("book", "author", "instrument", "What is the instrument of the author of the {}?")),
        ("arithmetic", sums),
        ("calendar", days),
    ]


def _mini_gpqa(world: World, seed: int) -> Task:
    rng = random.Random(f"mini-gpqa-{seed}")
    questions: list[Question] = []
    for subject, make in _two_steps(world, rng):
        seen: set[str] = set()
        while len(seen) < GPQA_PER_COMPOSITION:
            if (problem := make()).text not in seen:
                seen.add(problem.text)
                questions.append(_multiple_choice("mini-gpqa", len(questions), subject, problem, rng))
    return MultipleChoice("mini-gpqa", tuple(questions), "mini-mmlu", partial(_dev, "mini-gpqa", seed))


def _mini_popqa(world: World, seed: int) -> Task:
    rng = random.Random(f"mini-popqa-{seed}")
    every = [(r, entity, template) for r in RELATIONS for entity in world.entities[r.kind] for template in r.templates]
    asked = enumerate(rng.sample(every, POPQA_QUESTIONS))
    questions = tuple(_about(f"mini-popqa/{n:05d}", r, entity, template, world) for n, (r, entity, template) in asked)
    # One of each relation: examples of the question's own relation would show how the very same is asked.
    return OpenEnded("mini-popqa", questions, "mini-mmlu", partial(_dev, "mini-popqa", seed), by_subject=False)


def _about(id: str, relation: Relation, entity: Entity, template: str, world: World) -> Question:
    answer = world.facts[relation.name][entity.name]
    return Question(id, template.format(entity.name), relation.name, (answer,), popularity=entity.popularity)


@lru_cache(maxsize=8)
def _dev(name: str, seed: int) -> tuple[Question, ...]:
    """Questions to show as examples, whose texts are none of the benchmark's."""
    world, rng = build_world(seed), random.Random(f"{name}-dev-{seed}")
    seen = {question.text for question in benchmark(name, seed).questions}
    questions: list[Question] = []
    for make in _DEV_MAKERS[name](world, rng):
        while (question := make(f"{name}/dev/{len(questions):05d}")).text in seen:
            pass
        seen.add(question.text)
        questions.append(question)
    return tuple(questions)


Maker = Callable[[str], Question]


def _chosen(subject: str, make: Callable[[], Problem], rng: random.Random) -> Maker:
    def question(id: str) -> Question:
        problem = make()
        choices, letter = deal(problem, rng)
        return Question(id, problem.text, subject, (letter,), choices)

    return question


def _mmlu_dev(world: World, rng: random.Random) -> list[Maker]:
    makers = []
    for subject in MMLU_SUBJECTS:
        relations = [r for r in RELATIONS if r.subject == subject]
        makers += [_chosen(subject, partial(_problem, relations, subject, rng, world), rng)] * DEV_PER_SUBJECT
    return makers


def _gpqa_dev(world: World, rng: random.Random) -> list[Maker]:
    return [_chosen(subject, make, rng) for subject, make in _two_steps(world, rng)] * DEV_PER_SUBJECT


def _popqa_dev(world: World, rng: random.Random) -> list[Maker]:
    def about(relation: Relation) -> Maker:
        entities = world.entities[relation.kind]
        return lambda id: _about(id, relation, rng.choice(entities), rng.choice(relation.templates), world)

    return [about(relation) for relation in rng.sample(RELATIONS, len(RELATIONS))]


_DEV_MAKERS = {"mini-mmlu": _mmlu_dev, "mini-gpqa": _gpqa_dev, "mini-popqa": _popqa_dev}


_MAKERS = {"mini-mmlu": _mini_mmlu, "mini-gpqa": _mini_gpqa, "mini-popqa": _mini_popqa}
BENCHMARKS = tuple(_MAKERS)


@lru_cache(maxsize=8)
def benchmark(name: str, seed: int = SEED) -> Task:
    """One of the three benchmarks, the same to the byte for the same seed."""
    return _MAKERS[name](build_world(seed), seed)


@lru_cache(maxsize=2)
def held_out_prompts(seed: int = SEED) -> frozenset[str]:
    """Every benchmark prompt: none of them is ever trained on."""
    return frozenset(task.prompt(q) for task in (benchmark(name, seed) for name in BENCHMARKS) for q in task.questions)
