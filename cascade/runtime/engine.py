"""A cascade that answers: questions go from model to model by the very policy that was simulated.

A question is a `Journey` on its way. `Cascade.step` takes the journeys that are at one model and moves each on;
`answer_many` does so stage by stage over any number of questions, the server (`cascade.serving`) as requests come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cascade.engines.base import Engine, Failure, Gate, Prompt, Reader, Reply, prompt_of
from cascade.errors import CascadeError
from cascade.policies.base import LivePolicy
from cascade.policies.ledgers import Prices, available_units, pass_costs
from cascade.policies.outcome import Outcome
from cascade.policies.promise import Watched
from cascade.progress import progress as bar_of
from cascade.runtime.free_text import FreeText, needs_answer, with_signal
from cascade.scores.arrays import ChainScores, check_chain
from cascade.scores.columns import Signals
from cascade.simulation.frontier import Frontier, choose, frontier
from cascade.tasks.base import Question
from cascade.tasks.task import Task


@dataclass(frozen=True)
class Step:
    """What became of a question at one model.

    Attributes:
        model, place: Which.
        outcome: What the policy said; NOT_ASKED where the model failed.
        reply: What the model replied; ``None`` where it failed or a reader passed the question on.
        p_ik_reader: Of the reader, where one was asked.
        failure: Why the model failed; empty where it did not.
        best_effort: Whether it was asked again without thresholds, since every later model had failed.
        p_t_needs_answer: Whether what stands in P(T)'s place was known only after the whole answer.
    """

    model: str
    place: int
    outcome: Outcome
    reply: Reply | None = None
    p_ik_reader: float | None = None
    failure: str = ""
    best_effort: bool = False
    p_t_needs_answer: bool = False

    @property
    def p_ik(self) -> float | None:
        """P(IK) by the model's own probe."""
        return None if self.reply is None else self.reply.p_ik

    @property
    def p_t(self) -> float | None:
        """P(T)."""
        return None if self.reply is None else self.reply.p_t


@dataclass
class Journey:
    """A question on its way through a cascade.

    Attributes:
        prompt: What is asked.
        policy: By which it is decided.
        at: Place of the model that is next; -1 where it is at its end.
        best_effort: Whether, where the last model fails, an earlier one may answer whose confidence was too low.
        steps: What has become of it so far.
        bad_prompt: Whether the last model refused the prompt itself.
        forced: Whether it is on its way back, in a best effort: whatever the model says is the answer.
        aside: Whether it is asked beside a question that another model answers, and counts as none.
        signal: What stands in P(T)'s place, of `cascade.scoring.confidence.distributions.OF_TOKENS`; ``None`` for P(T).
    """

    prompt: Prompt
    policy: LivePolicy
    at: int
    best_effort: bool = False
    steps: list[Step] = field(default_factory=list)
    bad_prompt: bool = False
    forced: bool = False
    signal: str | None = None
    aside: bool = False

    @property
    def needs_answer(self) -> bool:
        """Whether it can be decided only when the whole answer is there."""
        return needs_answer(self.signal)

    @property
    def done(self) -> bool:
        """Whether it is at its end."""
        return self.at < 0


@dataclass(frozen=True)
class Answer:
    """A question's end.

    Attributes:
        question_id: Which.
        text: The letter, or the generated answer; empty where none was had.
        model: Who answered; ``None`` where the last model failed.
        steps: Every model that was tried, in order.
        policy: By which it was decided.
        failure: Why there is no answer; empty where there is one.
        bad_prompt: Whether the prompt itself was at fault.
    """

    question_id: str
    text: str
    model: str | None
    steps: tuple[Step, ...]
    policy: LivePolicy
    failure: str = ""
    bad_prompt: bool = False

    @property
    def reply(self) -> Reply:
        """The reply that answered."""
        reply = self.steps[-1].reply if self.steps else None
        if reply is None:
            raise CascadeError(f"Question {self.question_id!r} has no answer: {self.failure}")
        return reply

    @classmethod
    def of(cls, journey: Journey) -> Answer:
        """The end of a finished journey."""
        last, id = journey.steps[-1], journey.prompt.question_id
        if last.outcome != Outcome.ANSWERED or last.reply is None:
            return cls(id, "", None, tuple(journey.steps), journey.policy, last.failure, journey.bad_prompt)
        return cls(id, journey.prompt.read(last.reply.text), last.model, tuple(journey.steps), journey.policy)


class Cascade:
    """Models, smallest first, and the policy that says who answers.

    Args:
        models: Two or more, smallest first.
        policy: By places in ``models``.
        name: What a server calls the whole.
        readers: By place: who says P(IK) of that model before it is run.
        prices: For costs in dollars.
        calibration: Scores of the questions that chose the policy: for budgets.
        normalize: Decide by P(T) over the options' mass instead of the raw one, where there are options: an open-ended
            question is decided by the raw one all the same.
        keep_loaded: Keep every model in memory. Without, `answer_many` holds one model at a time, and its
            reader.
        task: That is asked, where its prompts have examples or a wording of their own.
        free_text: How a server asks and judges messages that are no question of a known form.
        watched: What the policy promises and how its signals were distributed, to be watched.

    Raises:
        CascadeError: If there are not two different models, or the policy asks for a confidence that is not there.
    """

    def __init__(
        self,
        models: Sequence[Engine],
        policy: LivePolicy,
        name: str = "cascade",
        readers: dict[int, Reader] | None = None,
        prices: Prices | None = None,
        calibration: ChainScores | None = None,
        normalize: bool = False,
        keep_loaded: bool = True,
        task: Task | None = None,
        free_text: FreeText | None = None,
        watched: Watched | None = None,
    ) -> None:
        check_chain([model.name for model in models])
        self.models, self.policy, self.name = tuple(models), policy, name
        self.readers, self.prices, self.calibration = readers or {}, prices, calibration
        self.normalize, self.keep_loaded, self.task = normalize, keep_loaded, task
        self.free_text = free_text
        self.watched = watched or Watched(missing="No promise and no signals are given to watch by")
        self.check_policy(policy)
        if free_text is not None:
            self.check_policy(free_text.policy)
            free_text.check(self.offers)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, smallest first."""
        return tuple(model.name for model in self.models)

    def check_policy(self, policy: LivePolicy) -> None:
        """Raises `CascadeError` where a policy asks for a model or a reader that is not there."""
        for place in policy.places:
            if place >= len(self.models):
                raise CascadeError(f"Expected a policy for {len(self.models)} models, but it uses model {place + 1}")
            if policy.gates(place).p_ik_reader is not None and place not in self.readers:
                raise CascadeError(
                    f"Expected {self.names[place]!r} to have a reader, as the policy asks one, but it has none"
                )
            if self.asks(policy, place) and self.models[place].probe_layer is None:
                raise CascadeError(
                    f"Expected {self.names[place]!r} to have a probe, as the policy asks one, but it has none"
                )

    def policy_within(self, budget: float) -> LivePolicy:
        """The most accurate policy of an expected cost of at most ``budget``, by the calibration scores.

        Args:
            budget: Share of the last model's cost, in the full-path ledger and the first unit that the scores allow.

        Raises:
            CascadeError: If there are no calibration scores, or nothing is that cheap.
        """
        if self.calibration is None:
            raise CascadeError("Expected calibration scores to choose a policy for a budget by, but there are none")
        return choose(self._frontier, "accuracy", budget).policy

    @cached_property
    def _frontier(self) -> Frontier:
        assert self.calibration is not None
        costs = pass_costs(self.calibration, available_units(self.calibration, self.prices)[0], self.prices)
        probed = all("p_ik" in model.signals.known for model in self.calibration.models[:-1])
        return frontier(self.calibration, costs, "full-path", "P(IK) + P(T)" if probed else "P(T)")

    def start(
        self,
        question: Question | Prompt,
        policy: LivePolicy | None = None,
        best_effort: bool = False,
        signal: str | None = None,
    ) -> Journey:
        """A question before its first model; ``policy`` instead of the cascade's own, ``signal`` in P(T)'s place."""
        prompt = question if isinstance(question, Prompt) else prompt_of(question, self.task)
        chosen = policy or self.policy
        return Journey(prompt, chosen, chosen.places[0], best_effort, signal=signal)

    def step(
        self,
        place: int,
        journeys: Sequence[Journey],
        on_token: Callable[[int, str], None] | None = None,
        wanted: Callable[[int], bool] | None = None,
    ) -> None:
        """Asks one model, and moves every journey on to its next model or to its end.

        Args:
            place: Of the model.
            journeys: At that place.
            on_token: Called with a journey's index and each piece of its text, once it is known to be the answer.
            wanted: Asked of a journey's index while its answer is made: whether anybody still waits for it.

        Raises:
            CascadeError: If the model cannot be asked at all (`fail` says what that means for its questions).
        """
        read = self._read(place, journeys)
        asked = [i for i in range(len(journeys)) if journeys[i].at == place and not journeys[i].done]
        if not asked:
            return
        model = self.models[place]
        p_ik: dict[int, float] = {}

        def after_p_ik(places: np.ndarray, values: np.ndarray) -> np.ndarray:
            p_ik.update(zip(places.tolist(), values.tolist(), strict=True))
            some = [journeys[asked[i]] for i in places]
            limits = [None if j.forced else j.policy.gates(place).p_ik for j in some]
            # Where nothing is asked of P(IK) a question stays even if P(IK) is not a number.
            free = np.array([limit is None for limit in limits])
            return np.asarray(free | (values >= np.array([limit or 0.0 for limit in limits])))

        def after_p_t(places: np.ndarray, values: np.ndarray) -> np.ndarray:
            replies = [
                Reply("", 0, 0, 0.0, p_ik=p_ik.get(int(i)), p_t=float(value))
                for i, value in zip(places, values, strict=True)
            ]
            some = [journeys[asked[i]] for i in places]
            late = np.array([journey.needs_answer for journey in some])
            return np.asarray(late | (self._decide(place, some, replies)[0] == Outcome.ANSWERED))

        # A probe that nobody's policy asks is neither read nor paid for.
        asks = any(self.asks(journeys[i].policy, place) for i in asked)
        still = None if wanted is None else lambda i: wanted(asked[i])
        gate = Gate(after_p_ik if asks else None, after_p_t, still)
        # What is decided by the whole answer is not shown before that.
        silent = {i for i in asked if journeys[i].needs_answer and journeys[i].policy.limits(place) is not None}

        def listen(i: int, text: str) -> None:
            if on_token is not None and asked[i] not in silent:
                on_token(asked[i], text)

        replies = model.answer([journeys[i].prompt for i in asked], gate, None if on_token is None else listen)
        replies = [
            with_signal(journeys[i].signal, reply) if isinstance(reply, Reply) else reply
            for i, reply in zip(asked, replies, strict=True)
        ]
        good = [(i, reply) for i, reply in zip(asked, replies, strict=True) if isinstance(reply, Reply)]
        outcomes, after = self._decide(place, [journeys[i] for i, _ in good], [reply for _, reply in good])
        for (i, reply), outcome, goes_to in zip(good, outcomes, after, strict=True):
            forced = journeys[i].forced
            late = journeys[i].needs_answer
            step = Step(model.name, place, Outcome(outcome), reply, read.get(i), "", forced, late)
            journeys[i].steps.append(step)
            journeys[i].at = int(goes_to)
        for i, failure in zip(asked, replies, strict=True):
            if isinstance(failure, Failure):
                self.fail(place, [journeys[i]], failure.reason, failure.bad_prompt)

    def fail(self, place: int, journeys: Sequence[Journey], reason: str, bad_prompt: bool = False) -> None:
        """Sends questions past a model that failed: to the next stronger one, and after the last to their end.

        With best effort what the last model failed on goes back to the strongest of the earlier ones that replied.

        Args:
            place: Of the model.
            journeys: At that place.
            reason: In words.
            bad_prompt: Whether the prompts themselves are at fault.
        """
        for journey in journeys:
            journey.bad_prompt = bad_prompt
            journey.steps.append(Step(self.names[place], place, Outcome.NOT_ASKED, failure=reason))
            tried = {step.place for step in journey.steps}
            later = [p for p in journey.policy.places if p > place and p not in tried]
            if later:
                journey.at = later[0]
                continue
            failed = {step.place for step in journey.steps if step.failure}
            back = [step.place for step in journey.steps if step.reply is not None and step.place not in failed]
            journey.forced = journey.best_effort and bool(back)
            journey.at = max(back) if journey.forced else -1

    def answer(self, question: Question | Prompt) -> Answer:
        """Asks one question."""
        (answer,) = self.answer_many([question], progress=False)
        return answer

    def answer_many(
        self,
        questions: Iterable[Question | Prompt],
        progress: bool = True,
        on_step: Callable[[Sequence[Journey]], None] | None = None,
        journeys: Sequence[Journey] | None = None,
    ) -> list[Answer]:
        """Asks any number of questions, stage by stage: what one model passes on is batched again for the next.

        Args:
            questions: In any order; the answers come in theirs.
            progress: Show a bar.
            on_step: Called with the journeys of each batch that a model has replied to.
            journeys: Instead of ``questions``, journeys some of which are under way already.

        Raises:
            CascadeError: If a model cannot be asked at all. What fails for one question only is in its `Answer`.
        """
        under_way = [self.start(q) for q in questions] if journeys is None else list(journeys)
        # A journey goes forward, and back only in a best effort, so that this ends.
        while waiting := sorted({journey.at for journey in under_way if not journey.done}):
            place = waiting[0]
            here = [journey for journey in under_way if journey.at == place]
            size = self.models[place].batch_size * self.models[place].parallel * 8
            label = f"{self.names[place]} ({place + 1}/{len(self.models)})"
            with bar_of(len(here), label, disable=not progress) as bar:
                for start in range(0, len(here), size):
                    some = here[start : start + size]
                    self.step(place, some)
                    bar.update(len(some))
                    if on_step is not None:
                        on_step(some)
            if not self.keep_loaded:
                self.models[place].release()
                if place in self.readers:
                    self.readers[place].release()
        return [Answer.of(journey) for journey in under_way]

    def _read(self, place: int, journeys: Sequence[Journey]) -> dict[int, float]:
        """What the place's reader says, by index; journeys that it passes on are moved."""
        gated = [j.policy.gates(place).p_ik_reader is not None and not j.forced for j in journeys]
        wanted = [i for i, on in enumerate(gated) if on]
        if not wanted:
            return {}
        said = self.readers[place].p_ik([journeys[i].prompt for i in wanted])
        read = dict(zip(wanted, said.tolist(), strict=True))
        for i, value in read.items():
            outcome, after = journeys[i].policy.decide(place, Signals(1, p_ik_reader=np.array([value])))
            if outcome[0] == Outcome.PASSED_BY_READER:
                journeys[i].steps.append(Step(self.names[place], place, Outcome(outcome[0]), None, value))
                journeys[i].at = int(after[0])
        return read

    @cached_property
    def offers(self) -> dict[str, frozenset[str]]:
        """Each model's name to the confidences that are known of it; see `Policy.asks`."""
        return {
            model.name: frozenset(
                ["p_t", *["p_ik"] * (model.probe_layer is not None), *["p_ik_reader"] * (place in self.readers)]
            )
            for place, model in enumerate(self.models)
        }

    def asks(self, policy: LivePolicy, place: int) -> bool:
        """Whether a policy asks the probe of the model at a place."""
        return "p_ik" in policy.asks(self.offers)[place]

    def decisive_p_t(self, prompt: Prompt, reply: Reply) -> float | None:
        """The P(T) that thresholds are held against; see ``normalize``."""
        return reply.p_t_normalized if self.normalize and prompt.letters else reply.p_t

    def _decide(
        self, place: int, journeys: Sequence[Journey], replies: Sequence[Reply]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Outcomes and next places, each journey by its own policy."""
        outcomes, after = np.zeros(len(journeys), np.int8), np.full(len(journeys), -1)
        policies = {id(journey.policy): journey.policy for journey in journeys}
        has_probe = self.models[place].probe_layer is not None
        for key, policy in policies.items():
            rows = [i for i, journey in enumerate(journeys) if id(journey.policy) == key]
            p_t = [self.decisive_p_t(journeys[i].prompt, replies[i]) for i in rows]
            p_ik = _column([replies[i].p_ik for i in rows]) if has_probe else None
            outcomes[rows], after[rows] = policy.decide(place, Signals(len(rows), _column(p_t), p_ik))
        forced = [i for i, journey in enumerate(journeys) if journey.forced]
        outcomes[forced], after[forced] = Outcome.ANSWERED, -1
        return outcomes, after


def _column(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
