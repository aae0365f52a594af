"""A Hugging Face decoder with its P(IK) probe as a stage of a cascade: rows leave the forward pass where a confidence
is too low.

P(IK) is read at the probe's layer inside the pass, and the remaining blocks run on the rows that stay; P(T) is read
from the same pass, and only the rows that pass it are continued, from their key-value cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.engines.base import OPEN, Failure, Gate, Prompt, Reply, TokenLogprob, Weights
from cascade.engines.generation import Continuation, continue_greedily
from cascade.engines.huggingface import HuggingFaceModel, Prefill
from cascade.engines.passes import cpu_tokens, of_like_length
from cascade.engines.prompts import Given, PromptForm
from cascade.engines.sampling import Sampler
from cascade.engines.states import StatesEngine
from cascade.errors import CascadeError
from cascade.tasks.base import Question, multiple_choice_prompt
from cascade.tasks.task import Task
from probes.probe import Probe

_MOST_ENDINGS = 1024


class LocalModel(StatesEngine):
    """A decoder on this machine.

    Args:
        decoder: The model; its weights are loaded with the first question.
        probe: See `StatesEngine`.
        allow_base_mismatch: See `StatesEngine`.
        task: See `StatesEngine`.

    Raises:
        CascadeError: See `StatesEngine`.
    """

    reads_shared_once = exits_early = True

    def __init__(
        self,
        decoder: HuggingFaceModel,
        probe: Probe | None = None,
        allow_base_mismatch: bool = False,
        task: Task | None = None,
    ) -> None:
        self.decoder, self.batch_size = decoder, decoder.settings.batch_size
        if self.batch_size < 1:
            raise CascadeError(f"Expected `batch_size` to be at least 1, but got {self.batch_size}")
        self.name, self.revision = decoder.name, decoder.revision
        self.dtype, self.quantization = decoder.dtype, decoder.quantization
        self.trust_remote_code = decoder.trust_remote_code
        self.num_layers, self.hidden_size = decoder.depth, decoder.hidden_size
        self._tokens: dict[tuple[str, ...], tuple[int, ...]] = {}
        super().__init__(
            replace(decoder.settings, revision=decoder.origin.get("revision")), probe, allow_base_mismatch, task
        )

    @property
    def parameters(self) -> int:
        """Number of the decoder's parameters."""
        return self.decoder.parameters

    @property
    def context(self) -> int | None:
        """Where the configuration says it."""
        return self.decoder.context

    @property
    def prompts(self) -> PromptForm:
        """How prompts become tokens."""
        return self.decoder.prompts

    @property
    def tokenizer_hash(self) -> str:
        """Hash of everything the tokenizer does to text."""
        return self.decoder.tokenizer_hash

    @property
    def versions(self) -> dict[str, str]:
        """Of torch and transformers."""
        return {name: ".".join(version(name).split(".")[:2]) for name in ("torch", "transformers")}

    @property
    def pass_tokens(self) -> int | None:
        """See `cpu_tokens`; a GPU knows no such number."""
        return None if torch.cuda.is_available() else cpu_tokens(self.hidden_size)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, as it is given."""
        return self.decoder.count_tokens(texts)

    def weights(self) -> Weights:
        """Sizes of the weights, and whether they are on disk."""
        return self.decoder.weights()

    def warm_up(self, prompts: Sequence[Prompt]) -> None:
        """Loads the weights."""
        self.answer(prompts)

    def release(self) -> None:
        """Gives the weights' memory back."""
        self.decoder.release()

    def p_t_tokens(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Those of the question with the most choices, or all that begin "Answer"."""
        tokens = self.first_tokens(max(prompts, key=lambda prompt: len(prompt.letters)))
        spelt = self.decoder.tokenizer.convert_ids_to_tokens(list(tokens))
        return dict(zip(map(str, tokens), spelt, strict=True))

    def read(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> tuple[list[Reply], dict[int, Tensor]]:
        """Replies and states of one pass; see `StatesEngine.read`."""
        self.decoder.model  # noqa: B018 - loads the weights, which is no question's time
        chosen = [self.first_tokens(prompt) for prompt in prompts]
        start = time.perf_counter()
        limit = max(prompt.room for prompt in prompts)
        shared = {prompt.shared if self.reads_shared_once else "" for prompt in prompts}
        common = shared.pop() if len(shared) == 1 else ""
        output = self.decoder.run([prompt.text for prompt in prompts], layers, limit, shared=common)
        seconds = (time.perf_counter() - start) / len(prompts)
        replies = []
        for i, prompt in enumerate(prompts):
            first = FirstToken.of(output.first_token[i], chosen[i], bool(prompt.letters))
            written = 1 if output.completion_tokens is None else int(output.completion_tokens[i])
            replies.append(
                Reply(
                    text=output.texts[i] if first.place is None else prompt.letters[first.place],
                    prompt_tokens=int(output.prompt_tokens[i]),
                    completion_tokens=written,
                    seconds=seconds,
                    finish_reason="length" if written == limit else "stop",
                    **first.confidences,
                )
            )
        return replies, output.states

    def states_at(self, prompts: Sequence[Prompt], layer: int) -> Tensor:
        """``[prompts, hidden]``; the pass goes no further than the layer."""
        taken: list[Tensor] = []

        def take(states: Tensor) -> Tensor:
            taken.append(states)
            return torch.zeros(len(states), dtype=torch.bool)

        self.decoder.prefill([prompt.text for prompt in prompts], exit_layer=layer, keep=take)
        return taken[0]

    def answer(
        self, prompts: Sequence[Prompt], gate: Gate = OPEN, on_token: Callable[[int, str], None] | None = None
    ) -> list[Reply | Failure]:
        """One reply a prompt; rows leave the pass at the probe's layer, and after the first token."""
        lengths, wrong_turns = self._lengths(prompts)
        replies: dict[int, Reply | Failure] = {}
        for place, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            if wrong := wrong_turns.get(place) or self._refuses(prompt, length):
                replies[place] = Failure(prompt.question_id, wrong, bad_prompt=True)
        tokens = None if "batch_size" in self.settings.changed() else self.pass_tokens
        for places in of_like_length(set(range(len(prompts))) - set(replies), lengths, self.batch_size, tokens):
            replies |= _Batch(self, [prompts[p] for p in places], np.array(places), gate, on_token).run()
        return [replies[place] for place in range(len(prompts))]

    def given(self, prompt: Prompt) -> Given:
        """A prompt as its model takes it: a conversation where there is one and a template for it, else its text."""
        return prompt.messages if prompt.messages and self.prompts.style == "chat" else prompt.text

    def _lengths(self, prompts: Sequence[Prompt]) -> tuple[list[int], dict[int, str]]:
        """Tokens of each prompt; and, by place, what is wrong with conversations that the template does not take."""
        wrong: dict[int, str] = {}
        for place, prompt in enumerate(prompts):
            if not isinstance(given := self.given(prompt), str):
                try:
                    self.prompts.render(given)
                except CascadeError as error:
                    wrong[place] = str(error)
        good = [self.given(prompt) for place, prompt in enumerate(prompts) if place not in wrong]
        counted = iter(self.decoder.count_tokens(good) if good else [])
        return [0 if place in wrong else next(counted) for place in range(len(prompts))], wrong

    def _refuses(self, prompt: Prompt, length: int) -> str:
        """What is wrong with a prompt; empty where nothing is."""
        room = prompt.room
        context = self.decoder.context
        if length == 0:
            return f"Expected a prompt for {self.name!r}, but it has no token"
        if context is not None and length + room > context:
            return f"Expected a prompt of at most {context - room} tokens for {self.name!r}, but it has {length}"
        try:
            self.first_tokens(prompt)
        except CascadeError as error:
            return str(error)
        return ""

    def check_letters(self, letters: Sequence[str]) -> None:
        """Resolves option letters after the paper's prompt; needs the tokenizer, and no weights.

        Raises:
            CascadeError: If no question that has these letters can be answered, whatever it says.
        """
        question = Question("", "text", "subject", choices=("x",) * len(letters))
        self.decoder.option_tokens(multiple_choice_prompt(question), letters)

    def first_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """The tokens whose probability is P(T): the letters', or all that begin "Answer"; none where any may."""
        if not prompt.letters and not prompt.answer_prefix:
            return ()
        # The letters' tokens depend on how the prompt ends, not on the question.
        key = (*prompt.letters, prompt.text[-16:] if prompt.letters else "")
        if key not in self._tokens:
            if len(self._tokens) >= _MOST_ENDINGS:  # prompts of clients may end in any way
                self._tokens.clear()
            if prompt.letters:
                self._tokens[key] = self.decoder.option_tokens(prompt.text, prompt.letters)
            else:
                self._tokens[key] = self.decoder.answer_prefix_tokens()
        return self._tokens[key]


@dataclass
class _Batch:
    """One forward pass over some prompts, and what follows from it."""

    model: LocalModel
    prompts: list[Prompt]
    places: np.ndarray
    gate: Gate
    on_token: Callable[[int, str], None] | None
    p_ik: list[float | None] = field(init=False)
    seconds: np.ndarray = field(init=False)
    started: float = field(init=False)

    def run(self) -> dict[int, Reply]:
        """Replies by the prompts' places."""
        self.model.decoder.model  # noqa: B018 - loads the weights, which is no question's time
        chosen = [self.model.first_tokens(prompt) for prompt in self.prompts]
        self.p_ik, self.seconds = [None] * len(self.prompts), np.zeros(len(self.prompts))
        self.started = time.perf_counter()
        probe = None if self.gate.p_ik is None else self.model.probe
        read = self.model.decoder.prefill(
            [self.model.given(prompt) for prompt in self.prompts],
            keep_cache=any(self._wants_more(prompt) for prompt in self.prompts),
            exit_layer=None if probe is None else probe.config.layer,
            keep=None if probe is None else self._keep,
        )
        left = read.left.tolist()
        chances = read.logits.float().log_softmax(-1).cpu()
        self._clock(left)
        prefill = self.seconds.copy()
        firsts = {
            row: FirstToken.of(chances[i], chosen[row], bool(self.prompts[row].letters)) for i, row in enumerate(left)
        }
        more = [row for row in left if self._wants_more(self.prompts[row])]
        if more:
            kept = self.gate.p_t(self.places[more], np.array([firsts[row].p_t for row in more]))
            more = [row for row, stays in zip(more, kept, strict=True) if stays]
        continued = self._continue(read, left, more) if more else {}
        self._clock(more)
        replies: dict[int, Reply] = {}
        for row, place in enumerate(self.places.tolist()):
            reply = Reply(
                text="",
                prompt_tokens=int(read.prompt_tokens[row]),
                completion_tokens=0,
                seconds=float(self.seconds[row]),
                prefill_seconds=float(prefill[row]),
                p_ik=self.p_ik[row],
                unseen_mass=0.0,
            )
            if row not in firsts:
                replies[place] = replace(reply, rejected_by="p_ik", unseen_mass=None)
                continue
            first = firsts[row]
            reply = replace(reply, p_t=first.p_t, p_t_normalized=first.p_t_normalized, option_mass=first.option_mass)
            if self._wants_more(self.prompts[row]) and row not in continued:
                replies[place] = replace(reply, completion_tokens=1, rejected_by="p_t")
                continue
            text, found = continued.get(row) or self._first_alone(row, first, chances[left.index(row)])
            replies[place] = replace(
                reply,
                text=text,
                completion_tokens=len(found.tokens),
                tokens=self._logprobs(found, wanted) if (wanted := self.prompts[row].top_logprobs) else (),
                options=first.options if self.prompts[row].top_logprobs else (),
                finish_reason="stop" if found.ended else "length",
            )
        return replies

    def _wants_more(self, prompt: Prompt) -> bool:
        return not prompt.letters and (prompt.max_new_tokens > 1 or prompt.temperature > 0)

    def _keep(self, states: Tensor) -> Tensor:
        assert self.model.probe is not None and self.gate.p_ik is not None
        p_ik = self.model.probe.predict(states).astype(np.float64)
        self.p_ik = [float(value) for value in p_ik]
        self._clock(list(range(len(self.prompts))))
        return torch.from_numpy(np.asarray(self.gate.p_ik(self.places, p_ik), dtype=bool))

    def _clock(self, rows: list[int]) -> None:
        """Shares the time since the last call among the rows that were being computed."""
        now = time.perf_counter()
        if rows:
            self.seconds[rows] += (now - self.started) / len(rows)
        self.started = now

    def _continue(self, read: Prefill, left: list[int], more: list[int]) -> dict[int, tuple[str, Continuation]]:
        """Text and tokens of the rows that go on, which are some of those that are left."""
        chosen = torch.tensor([left.index(row) for row in more])
        logits, mask = read.logits[chosen.to(read.logits.device)], read.mask[chosen.to(read.mask.device)]
        if len(more) < len(left):
            read.cache.batch_select_indices(chosen.to(read.logits.device))
        texts = [""] * len(more)

        heard = self.on_token is not None or any(self.prompts[row].stop for row in more)
        wanted = self.gate.wanted

        def listen(i: int, tokens: list[int]) -> bool:
            prompt = self.prompts[more[i]]
            if wanted is not None and not wanted(int(self.places[more[i]])):
                return True
            if not heard:
                return False
            text = self._text(tokens)
            cut = min((at for stop in prompt.stop if (at := text.find(stop)) >= 0), default=None)
            text = text if cut is None else text[:cut]
            # Half a character is not shown before its other half is there.
            if self.on_token is not None and not text.endswith("\N{REPLACEMENT CHARACTER}"):
                held = _may_begin_a_stop(text, prompt.stop) if cut is None else 0
                shown = text[: len(text) - held]
                if len(shown) > len(texts[i]):
                    self.on_token(int(self.places[more[i]]), shown[len(texts[i]) :])
                    texts[i] = shown
            return cut is not None

        found = continue_greedily(
            self.model.decoder.model,
            logits,
            read.cache,
            mask,
            [self.prompts[row].max_new_tokens for row in more],
            self.model.decoder.end_tokens,
            max(self.prompts[row].top_logprobs for row in more),
            listen if heard or wanted is not None else None,
            Sampler([self.prompts[row] for row in more]),
        )
        results = {}
        for i, (row, one) in enumerate(zip(more, found, strict=True)):
            text = self._text(one.tokens)
            for stop in self.prompts[row].stop:
                text = text.split(stop, 1)[0]
            if self.on_token is not None and len(text) > len(texts[i]):
                self.on_token(int(self.places[row]), text[len(texts[i]) :])
            results[row] = (text, one)
        return results

    def _first_alone(self, row: int, first: FirstToken, chances: Tensor) -> tuple[str, Continuation]:
        """Text and token of a row of which only the first token is wanted."""
        prompt = self.prompts[row]
        best = chances.topk(prompt.top_logprobs)
        top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        ended = first.place is not None or bool((self.model.decoder.end_tokens == first.token).any())
        text = self._text([first.token]) if first.place is None else prompt.letters[first.place]
        if first.place is None and (stopped := [text.find(stop) for stop in prompt.stop if stop in text]):
            text, ended = text[: min(stopped)], True
        return text, Continuation([first.token], [float(chances[first.token])], [top], ended)

    def _text(self, tokens: list[int]) -> str:
        text: str = self.model.decoder.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def _logprobs(self, found: Continuation, alternatives: int) -> tuple[TokenLogprob, ...]:
        decode = self.model.decoder.tokenizer.decode
        return tuple(
            TokenLogprob(decode([token]), logprob, tuple((decode([i]), value) for i, value in top[:alternatives]))
            for token, logprob, top in zip(found.tokens, found.logprobs, found.top, strict=True)
        )


def _may_begin_a_stop(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of a text with which a stop text may begin."""
    longest = max(map(len, stops), default=1) - 1
    return next((n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in stops)), 0)


@dataclass(frozen=True)
class FirstToken:
    """What the distribution of the first token says.

    Attributes:
        token: The token that is the answer's first: the chosen letter's, or the most probable one.
        p_t: Its probability (eq. 1); in the paper's open-ended format the mass of all tokens that begin "Answer".
        place: Of the chosen letter; ``None`` for open-ended questions.
        p_t_normalized, option_mass: P(T) over the options' mass, and that mass; of multiple choice only.
        options: Probability of each letter's token; of multiple choice only.
    """

    token: int
    p_t: float
    place: int | None = None
    p_t_normalized: float | None = None
    option_mass: float | None = None
    options: tuple[float, ...] = ()

    @property
    def confidences(self) -> dict[str, Any]:
        """What a `Reply` says of it."""
        known = {"p_t": self.p_t, "p_t_normalized": self.p_t_normalized, "option_mass": self.option_mass}
        return known | {"unseen_mass": 0.0, "options": self.options}

    @classmethod
    def of(cls, chances: Tensor, tokens: Sequence[int], multiple_choice: bool) -> FirstToken:
        """Reads it from log-probabilities.

        Args:
            chances: ``[vocabulary]``, natural logarithms.
            tokens: Those of the letters, in order, or all that begin "Answer"; none where any first token counts.
            multiple_choice: Whether they are letters.
        """
        likeliest = int(chances.argmax())
        if not tokens:
            return cls(likeliest, float(chances[likeliest].double().exp()))
        probabilities = chances[list(tokens)].double().exp()
        mass = min(float(probabilities.sum()), 1.0)
        if not multiple_choice:
            return cls(likeliest, mass)
        best = int(probabilities.argmax())
        p_t = float(probabilities[best])
        return cls(tokens[best], p_t, best, min(p_t / mass, 1.0), mass, tuple(probabilities.tolist()))
