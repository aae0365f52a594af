"""One protocol for every engine: its settings, what a model is asked, what it replies, when it may stop half way.

What an engine that shows hidden states has on top is `cascade.engines.states`. Nothing here knows of chains: who is
asked next is the policy's to say. Starts without torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from cascade.errors import CascadeError
from cascade.tasks.base import Question
from cascade.tasks.task import Task, kind_of

if TYPE_CHECKING:
    from cascade.engines.passing import Relay
    from probes.probe import Probe


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens read and written."""

    input: float
    output: float


Kept = np.ndarray
"""``[some]``, bool: the prompts that go on."""


@dataclass(frozen=True)
class Prompt:
    """One text to be continued.

    Attributes:
        question_id: Names it in errors.
        text: The whole prompt.
        letters: The option letters, one of which is the next token; empty for open-ended questions.
        answer_prefix: Of an open-ended question: whether P(T) is the mass of the tokens that begin "Answer", as the
            paper's format has it; else it is the probability of the first token, whatever that is.
        max_new_tokens: At the most, the first one included; of a multiple-choice question only the first is used.
        top_logprobs: How many alternatives are wanted for each token, 0 to 20.
        messages: The same as a conversation, roles and texts, for what takes one; empty where the text is all there is.
        stop: Texts that end the continuation, and are not part of it.
        temperature: 0 takes the most probable token each time; above it the continuation is sampled, which is of no
            use where one of the letters is wanted.
        top_p: Of a sample: draws only from the most probable tokens that have this much mass together.
        seed: Of the sample. Draws follow it and `draws`, and nothing else.
        draws: Names the stream of random numbers; by default `question_id` does.
        extra: Further fields of a request to an endpoint, as the client wrote them. What runs here knows none of them.
        shared: What the text begins with, and those of other questions too: an instruction and examples.
        read: From the continuation to the answer in it.
    """

    question_id: str
    text: str
    letters: tuple[str, ...] = ()
    answer_prefix: bool = True
    max_new_tokens: int = 16
    top_logprobs: int = 0
    messages: tuple[tuple[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    draws: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    shared: str = field(default="", compare=False, repr=False)
    read: Callable[[str], str] = field(default=str, compare=False, repr=False)

    @property
    def room(self) -> int:
        """Tokens that the context needs room for beyond the prompt; a letter is read where the prompt ends."""
        return 0 if self.letters else self.max_new_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens that are written at the most."""
        return 1 if self.letters else self.max_new_tokens

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or (self.temperature and self.letters):
            wanted = "0 where a letter is wanted" if self.letters else "a number of at least 0"
            raise CascadeError(
                f"Expected `temperature` of question {self.question_id!r} to be {wanted}, but got {self.temperature}"
            )
        if not 0 <= self.top_p <= 1:
            raise CascadeError(f"Expected `top_p` of question {self.question_id!r} in [0, 1], but got {self.top_p}")


def prompt_of(question: Question, task: Task | None = None, max_new_tokens: int | None = None) -> Prompt:
    """A question as its task puts it, for any engine.

    Args:
        question: Of the task.
        task: By default the paper's words (Table 7), as the question's choices have it.
        max_new_tokens: By default the task's.
    """
    task = task or kind_of(question)
    return Prompt(
        question.id,
        task.prompt(question),
        task.letters(question),
        task.answer_prefix,
        task.max_new_tokens if max_new_tokens is None else max_new_tokens,
        shared=task.shared(question),
        read=partial(task.read, question),
    )


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token's text and natural log-probability, and those of its best alternatives, best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """What came of one prompt.

    Attributes:
        text: A letter, or the continuation; empty where a confidence was too low for one.
        rejected_by: The confidence that was too low, and at which the model stopped.
        p_ik: P(IK) of the model's own probe, or ``None`` where it has none.
        p_t: Probability of the first answer token (eq. 1), or ``None`` where it is not known or was not reached.
        p_t_normalized: The same over the options' mass.
        option_mass: Mass of all the options, or ``None`` where an endpoint shows only some of them.
        unseen_mass: Mass of the first token that an endpoint did not show; 0 where all is seen.
        prompt_tokens, completion_tokens: As the model's own tokenizer counts; none is completed where P(IK) rejected.
        seconds, prefill_seconds: Its share of the measured time of its batch, in all and up to the first token.
        tokens: The generated tokens, where `Prompt.top_logprobs` or the engine gives them.
        options: Probability of each of the letters, in order, where `Prompt.top_logprobs` is above 0 and all are known.
        finish_reason: ``stop``, or ``length`` where `Prompt.max_new_tokens` ended it.
        dollars: What a provider charges for it; ``None`` where there is no price.
        cached: Whether it came from disk and cost nothing this time.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    p_ik: float | None = None
    p_t: float | None = None
    p_t_normalized: float | None = None
    option_mass: float | None = None
    unseen_mass: float | None = None
    rejected_by: Literal["p_ik", "p_t"] | None = None
    prefill_seconds: float | None = None
    tokens: tuple[TokenLogprob, ...] = ()
    options: tuple[float, ...] = ()
    finish_reason: Literal["stop", "length"] = "stop"
    dollars: float | None = None
    cached: bool = False


@dataclass(frozen=True)
class Failure:
    """A prompt that got no reply, and why.

    Attributes:
        question_id: Which.
        reason: In words.
        bad_prompt: Whether the prompt itself is at fault (too long, say), so that asking again is no use.
        refusal: Whether the model replied that it will not answer.
    """

    question_id: str
    reason: str
    bad_prompt: bool = False
    refusal: bool = False


def keep_all(places: np.ndarray, values: np.ndarray) -> Kept:
    """Lets every prompt go on."""
    return np.ones(len(places), dtype=bool)


@dataclass(frozen=True)
class Gate:
    """Which prompts go on after each confidence; those that do not are dropped there.

    Both are called with the places of some of the prompts, ``[some]``, int64, and a confidence for each, ``[some]``,
    float64, from the thread that called `Engine.answer`.

    Attributes:
        p_ik: Asked inside the forward pass, at the probe's layer; ``None`` where the probe is not to be read at all.
        p_t: Asked after the first token, of those that are left, where more than that token is wanted.
        wanted: Asked of a prompt's place while its answer is made: whether anybody still waits for it. What nobody
            waits for is broken off, and its reply is of no use. ``None`` where all are wanted to the end.
    """

    p_ik: Callable[[np.ndarray, np.ndarray], Kept] | None = keep_all
    p_t: Callable[[np.ndarray, np.ndarray], Kept] = keep_all
    wanted: Callable[[int], bool] | None = None


OPEN = Gate()


@dataclass(frozen=True)
class Weights:
    """What a model's weights take.

    Attributes:
        model: Which.
        parameters: How many, shared ones once.
        shape: Blocks × width.
        dtype: What it computes in.
        precision: Dtype, and how they are packed.
        memory: Bytes when loaded; what the questions take beside them is not counted.
        disk: Bytes of the files: as they are, or as the configuration's dtype has them.
        there: Whether the files are on disk.
    """

    model: str
    parameters: int
    shape: str
    dtype: str
    precision: str
    memory: int
    disk: int
    there: bool


class Engine(ABC):
    """A model that can be a stage of a cascade.

    Attributes:
        name: As score tables and configurations call it.
        num_layers, hidden_size: ``None`` where a provider does not say.
        context: Tokens of prompt and answer that there is room for; ``None`` where it is not known.
        probe_layer, probe_parameters: Of the P(IK) probe; ``None`` and 0 where there is none.
        exits_early: Whether a pass stops at the probe's layer for a prompt that is turned away there.
        batch_size: Prompts in one call of `answer` that are worth waiting for.
        parallel: Calls of `answer` that may run at once, from different threads.
    """

    name: str
    num_layers: int | None = None
    hidden_size: int | None = None
    probe_layer: int | None = None
    probe_parameters: int = 0
    exits_early: bool = False
    batch_size: int = 32
    parallel: int = 1

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the replies depend on, as JSON values; another identity is another model."""

    @abstractmethod
    def answer(
        self,
        prompts: Sequence[Prompt],
        gate: Gate = OPEN,
        on_token: Callable[[int, str], None] | None = None,
    ) -> list[Reply | Failure]:
        """One reply a prompt, in order.

        Args:
            prompts: Any number; batches are the model's own affair.
            gate: Where a row may end early. Without a probe, P(IK) is not asked.
            on_token: Called with a prompt's place and a piece of text as it is generated, where the engine can. Only
                pieces of rows that passed the gate are given.

        Raises:
            CascadeError: If the model cannot be asked at all. What is wrong with one prompt only is a `Failure`.
        """

    @property
    def parameters(self) -> int | None:
        """Number of parameters; ``None`` where a provider does not say."""
        return None

    @property
    def context(self) -> int | None:  # noqa: D102 - the class says it
        return None

    def release(self) -> None:  # noqa: B027 - many hold nothing
        """Gives back what the model holds (weights, connections); the next call takes it again."""

    def check_letters(self, letters: Sequence[str]) -> None:  # noqa: B027 - not known before it is asked
        """Refuses option letters with which no question could be answered, whatever it says.

        Raises:
            CascadeError: If they cannot be told apart.
        """

    def warm_up(self, prompts: Sequence[Prompt]) -> None:  # noqa: B027 - nobody pays for a warm endpoint
        """Loads what the first question would have to wait for."""

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text; ``None`` where the tokenizer is a provider's own."""
        return None

    @property
    def relay(self) -> Relay | None:
        """Where requests go as a client wrote them; ``None`` where the model runs here."""
        return None

    def weights(self) -> Weights | None:
        """What its weights take on this machine, none of them loaded for it; ``None`` where they are elsewhere."""
        return None


@dataclass(frozen=True, kw_only=True)
class EngineConfig(ABC):
    """Settings of an engine, a dataclass beside it, with an entry in `cascade.engines.ENGINES`.

    Attributes:
        price: What a provider charges.
        called: What messages call it.
        named_by: The field that says which model.
        shows_states: Whether a probe can read what it builds.
        answers: Whether what it builds is an `Engine`, and no mere reader.
    """

    called: ClassVar[str] = "an engine"
    named_by: ClassVar[str] = "model"
    shows_states: ClassVar[bool] = False
    answers: ClassVar[bool] = True
    price: Price | None = None

    @property
    def name(self) -> str:
        """As score tables call the model."""
        name: str = getattr(self, self.named_by)
        return name

    @abstractmethod
    def build(self, probe: Probe | None = None, needs_confidence: bool = True, task: Task | None = None) -> Any:
        """The engine, nothing of which is loaded or connected yet.

        Args:
            probe: Reads P(IK) from its states, where it shows some.
            needs_confidence: Whether P(T) is wanted; nobody asks that of a chain's last model.
            task: That is asked, where its prompts have examples or a wording of their own, as those of the probe's had.

        Raises:
            CascadeError: If there is no such model, or a setting is not what it has to be.
        """

    def flags(self) -> dict[str, Any]:
        """As the ``--data.*`` of `cascade.train` take them back."""
        return {"engine": self.entry()}

    def entry(self) -> dict[str, Any]:
        """As a cascade's YAML has it: what is not as it is by default."""
        own = {f.name: f for f in fields(self)}
        given = {name: value for name, value in asdict(self).items() if getattr(self, name) != own[name].default}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        return {"engine": self.registered} | {name: value for name, value in plain.items() if value != {}}

    def changed(self, *but: str) -> list[str]:
        """Names of the fields, but for some, that are not as they are by default."""
        own = [f for f in fields(self) if f.default is not MISSING and f.name not in but]
        return [f.name for f in own if getattr(self, f.name) != f.default]

    @property
    def registered(self) -> str:
        """Its name in `cascade.engines.ENGINES`."""
        from cascade.engines import ENGINES

        here = f"{type(self).__module__}:{type(self).__qualname__}"
        return next(name for name, where in ENGINES.items() if where == here)

    def check_processes(self, count: int) -> None:  # noqa: B027 - any number of them
        """Refuses more processes, each with a model of its own, than there can be.

        Raises:
            CascadeError: If there can be but one.
        """

    def remark(self, dollars: float) -> str:
        """What has to be known before it is asked for so much money; empty where nothing has."""
        return ""


class Reader(Protocol):
    """Says P(IK) of a model that has not been run, from another model's states (`cascade.engines.reader`)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def identity(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def parameters(self) -> int: ...  # noqa: D102

    def p_ik(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """``[prompts]``, float64."""
        ...

    def release(self) -> None:
        """Gives back what can be loaded again."""
        ...
