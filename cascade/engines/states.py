"""Engines that show hidden states: what a store, a probe and a reader need of them beside answers.

A new engine defines `StatesEngine.read`: one pass that answers and returns hidden states. `StatesEngine` makes `answer`
of it, and applies the probe and the gate. An engine that can stop half way through a pass overrides `answer`, as
`cascade.engines.local` does.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors.torch import save
from torch import Tensor

from cascade.engines.base import OPEN, Engine, EngineConfig, Failure, Gate, Prompt, Reply
from cascade.errors import CascadeError
from cascade.tasks.base import hash_template
from cascade.tasks.task import Task, wordings
from probes.capture import resolve_layers
from probes.probe import Probe, ProbeConfig
from probes.store import precision_of

POSITION = "last_prompt_token"


class States(NamedTuple):
    """What hidden states are of, as far as a probe minds.

    Attributes:
        position, hidden_size, base_model, base_revision, dtype: As in `ProbeConfig`.
        templates: Template hashes of prompts in their form; see `PromptForm.template_hashes`.
    """

    position: str
    hidden_size: int
    base_model: str
    base_revision: str
    dtype: str
    templates: frozenset[str]


class Form(Protocol):
    """How prompts are given to a model, as `cascade.engines.prompts.PromptForm` says it."""

    @property
    def settings(self) -> dict[str, str]:
        """What differs from the defaults."""
        ...

    @property
    def note(self) -> str:
        """In words, what is done to prompts; empty where nothing is."""
        ...

    def template_hash(self, task: Task) -> str:
        """Hash of all that is done to the wording of a task's questions."""
        ...

    def template_hashes(self, task: Task | None = None) -> frozenset[str]:
        """Hashes of all prompts in this form, those of a task among them."""
        ...


class RawForm:
    """Prompts as they are."""

    settings: dict[str, str] = {}  # noqa: RUF012 - never changed
    note = ""

    def template_hash(self, task: Task) -> str:
        """That of the task's own wording."""
        return hash_template(task.sample_prompt)

    def template_hashes(self, task: Task | None = None) -> frozenset[str]:
        """Of every kind of task with as many examples, and of the task."""
        tasks = (*wordings(0 if task is None else task.shots), *(() if task is None else (task,)))
        return frozenset(map(self.template_hash, tasks))


class Readable(ABC):
    """What a probe can read: some model's states after a prompt."""

    name: str
    revision: str

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters."""

    @abstractmethod
    def shown_for(self, task: Task | None = None) -> States:
        """What its states are of.

        Args:
            task: That is asked, where its prompts have examples or a wording of their own.
        """

    @property
    def shown(self) -> States:
        """What its states are of, whatever is asked in the words of Table 7."""
        return self.shown_for()

    @property
    def described(self) -> str:
        """In words, for a probe of something else."""
        return f"this is {self.name}"

    @abstractmethod
    def states_at(self, prompts: Sequence[Prompt], layer: int) -> Tensor:
        """``[prompts, hidden]`` at a layer, on any device."""

    def release(self) -> None:  # noqa: B027 - many hold nothing
        """Gives back what can be loaded again."""


class StatesEngine(Engine, Readable):
    """An engine that shows hidden states.

    Args:
        settings: How it is built again.
        probe: Its P(IK) head; without one P(IK) is not known.
        allow_base_mismatch: Read P(IK) with a probe of another base or prompt template all the same, where the width
            agrees.
        task: That is asked, where its prompts have examples or a wording of their own, as those of the probe's had.

    Raises:
        CascadeError: If the probe was trained on another model, revision, dtype, position or prompt template.

    Attributes:
        name, revision: Of the weights. Stores and probes know them by both.
        dtype, quantization: What they compute in, and how they are packed.
        trust_remote_code: Whether the model's own Python is run.
        num_layers, hidden_size: Blocks, and the width of a state.
        reads_shared_once: Whether what all prompts of a batch begin with (`Prompt.shared`) is read once.
        tokenizer_hash: Hash of everything the tokenizer does to text.
        versions: Of the packages that states depend on, ``major.minor``.
        prompts: How prompts are given.
    """

    num_layers: int
    hidden_size: int
    reads_shared_once: bool = False
    dtype: str = "float32"
    quantization: str | None = None
    trust_remote_code: bool = False

    def __init__(
        self,
        settings: EngineConfig,
        probe: Probe | None = None,
        allow_base_mismatch: bool = False,
        task: Task | None = None,
    ) -> None:
        self.settings, self.probe = settings, probe
        if probe is not None:
            check_states(probe.config, self.shown_for(task), self.described, allow_base_mismatch)
            self.probe_layer = probe.config.layer
            self.probe_parameters = sum(parameter.numel() for parameter in probe.parameters())

    @abstractmethod
    def read(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> tuple[list[Reply], dict[int, Tensor]]:
        """Replies, and the states they came from, in one pass over one batch.

        Args:
            prompts: A batch, of letters all or none; each is known to fit.
            layers: Layers whose states are wanted: 0 is the embeddings, ℓ the output of block ℓ.

        Returns:
            One reply a prompt, its P(IK) left out; and for each layer ``[batch, hidden]`` at the last prompt token, on
            the CPU.
        """

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters."""

    @property
    def pass_tokens(self) -> int | None:
        """Tokens, padding included, beyond which a larger batch is no quicker; `None` where that is not known."""
        return None

    @property
    def tokenizer_hash(self) -> str:  # noqa: D102 - the class says it
        return "none"

    @property
    def versions(self) -> dict[str, str]:  # noqa: D102 - the class says it
        return {}

    @property
    def prompts(self) -> Form:  # noqa: D102 - the class says it
        return RawForm()

    @property
    def described(self) -> str:
        """In words, for a probe of something else."""
        return f"this is {self.name} with {self.prompts.settings.get('prompt_style', 'raw')} prompts"

    @property
    def precision(self) -> str:
        """What the states depend on beside the weights' names: the dtype, and how the weights are packed."""
        return precision_of(self.dtype, self.quantization)

    def shown_for(self, task: Task | None = None) -> States:
        """What its states are of, after prompts of a task."""
        known = (self.hidden_size, self.name, self.revision, self.precision)
        return States(POSITION, *known, self.prompts.template_hashes(task))

    @property
    def identity(self) -> dict[str, Any]:
        """Weights, precision, the probe's weights, and how prompts are given where that is not raw."""
        probe = None if self.probe is None else probe_identity(self.probe)
        known = {"name": self.name, "revision": self.revision, "dtype": self.precision, "probe": probe}
        return known | self.prompts.settings

    def layers(self, layers: Sequence[int] | str) -> tuple[int, ...]:
        """Layer numbers of this model, checked."""
        return resolve_layers(layers, self.num_layers)

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt, which has to fit in the context with its answer.

        Raises:
            CascadeError: If one does not, or cannot be asked for another reason.
        """
        lengths = self.count_tokens([prompt.text for prompt in prompts]) or [0] * len(prompts)
        if self.context is not None:
            check_lengths(self.name, self.context, prompts, lengths)
        return lengths

    def p_t_tokens(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """The tokens whose probability is P(T) after some prompts of one task, by id, as the tokenizer spells them.

        Raises:
            CascadeError: If the option letters cannot be told apart.
        """
        return {}

    def states_at(self, prompts: Sequence[Prompt], layer: int) -> Tensor:
        """``[prompts, hidden]`` at a layer."""
        return self.read([replace(prompt, max_new_tokens=1) for prompt in prompts], [layer])[1][layer]

    def answer(
        self, prompts: Sequence[Prompt], gate: Gate = OPEN, on_token: Callable[[int, str], None] | None = None
    ) -> list[Reply | Failure]:
        """One reply a prompt, from whole passes: what leaves early is dropped afterwards, and has cost what it cost."""
        found: list[Reply | Failure] = []
        for start in range(0, len(prompts), self.batch_size):
            found += self._answer_batch(prompts[start : start + self.batch_size], start, gate, on_token)
        return found

    def _answer_batch(
        self, prompts: Sequence[Prompt], start: int, gate: Gate, on_token: Callable[[int, str], None] | None
    ) -> list[Reply]:
        probe = self.probe if gate.p_ik is not None else None
        replies, states = self.read(prompts, [] if probe is None else [probe.config.layer])
        places = np.arange(start, start + len(prompts))
        if probe is not None and gate.p_ik is not None:
            p_ik = probe.predict(states[probe.config.layer]).astype(np.float64)
            kept = np.asarray(gate.p_ik(places, p_ik), dtype=bool)
            replies = [replace(reply, p_ik=float(value)) for reply, value in zip(replies, p_ik, strict=True)]
            replies = [r if k else _without_answer(r, "p_ik") for r, k in zip(replies, kept, strict=True)]
        # P(T) decides half way only where more than the first token is wanted.
        more = [i for i, r in enumerate(replies) if r.rejected_by is None and not prompts[i].letters]
        if more:
            p_t = np.array([np.nan if replies[i].p_t is None else replies[i].p_t for i in more], dtype=np.float64)
            for i, stays in zip(more, gate.p_t(places[more], p_t), strict=True):
                replies[i] = replies[i] if stays else _without_answer(replies[i], "p_t")
        for place, reply in zip(places.tolist(), replies, strict=True):
            if on_token is not None and reply.rejected_by is None and reply.text:
                on_token(place, reply.text)
        return replies


def _without_answer(reply: Reply, by: str) -> Reply:
    if by == "p_t":
        return replace(reply, text="", tokens=(), completion_tokens=1, rejected_by="p_t")
    kept = {"prompt_tokens": reply.prompt_tokens, "seconds": reply.seconds, "p_ik": reply.p_ik}
    return Reply(text="", completion_tokens=0, rejected_by="p_ik", **kept)  # type: ignore[arg-type]


def showing_states(engine: Engine) -> StatesEngine:
    """An engine whose states are wanted.

    Raises:
        CascadeError: If it shows none.
    """
    if not isinstance(engine, StatesEngine):
        raise CascadeError(
            f"Expected an engine that shows hidden states, from which a store or a probe is made, but {engine.name!r} "
            f"shows none"
        )
    return engine


def check_lengths(name: str, context: int, prompts: Sequence[Prompt], lengths: Sequence[int]) -> None:
    """Refuses prompts that do not fit in a context with their answers.

    Raises:
        CascadeError: Naming the longest one.
    """
    room = max((prompt.room for prompt in prompts), default=0)
    over = [i for i, length in enumerate(lengths) if length > context - room]
    if over:
        longest = max(over, key=lambda i: lengths[i])
        raise CascadeError(
            f"Expected prompts of at most {context - room} tokens for {name!r}, but prompt "
            f"{prompts[longest].question_id!r} has {lengths[longest]}"
            + (f", and {len(over) - 1:,} more are too long" if len(over) > 1 else "")
        )


def probe_identity(probe: Probe) -> str:
    """Hash of a probe's weights and layer."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in probe.state_dict().items()}
    return hashlib.sha256(save(tensors) + str(probe.config.layer).encode()).hexdigest()[:16]


def check_states(config: ProbeConfig, found: States, whose: str, allow_base_mismatch: bool = False) -> None:
    """Refuses hidden states that a probe was not trained on.

    Args:
        config: The probe's. What somebody else's does not say (a dtype, a template hash) is taken at any; without a
            revision the base is known by its name, of a folder the last part.
        found: What the states are of.
        whose: In words, for the error.
        allow_base_mismatch: Take another model's states, or those of another prompt template, all the same, where width
            and position agree.

    Raises:
        CascadeError: Naming what differs.
    """
    base = "base_revision" if config.base_revision else "base_model"
    of_base = () if allow_base_mismatch else (base, "dtype") if config.dtype else (base,)
    for name in ("position", "hidden_size", *of_base):
        wanted, here = getattr(config, name), getattr(found, name)
        same = PurePath(wanted).name == PurePath(here).name if name == "base_model" else wanted == here
        if not same:
            raise CascadeError(
                f"Expected hidden states of the probe's base {config.base_model} ({name}={wanted}), but {whose} "
                f"({name}={here})"
            )
    if config.template_hash and config.template_hash not in found.templates and not allow_base_mismatch:
        raise CascadeError(
            f"Expected hidden states after prompts in the form that the probe of {config.base_model} was trained on "
            f"(template_hash={config.template_hash}), but {whose} "
            f"(template_hash={' or '.join(sorted(found.templates))})"
        )
