"""vLLM as an engine: answers, P(T) and the last prompt token's states of the chosen layers, in one pass.

Prompts, option letters and their tokens are those of `cascade.engines.local`: vLLM is given token ids. Probes that were
trained on one engine's states read the other's. There is no early exit inside a pass: a prompt that is turned away by
P(IK) has been read whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from cascade.engines.base import EngineConfig, Prompt, Reply
from cascade.engines.gguf import unpacked
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.local import FirstToken, LocalModel
from cascade.engines.prompts import LetterForm
from cascade.engines.settings import DecoderConfig
from cascade.engines.states import StatesEngine
from cascade.errors import CascadeError, missing_extra
from cascade.tasks.base import PromptStyle
from cascade.tasks.task import Task
from probes.probe import Probe
from probes.store import DTYPES

# Of CPU machines alone; what the user has set counts more. Without the first vLLM takes nearly all the memory.
_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
_EVERYWHERE = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # this process may hold threads of torch's
}
_CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
_CPU_CONTEXT = 8192  # what a gigabyte of keys and values holds of the models that a CPU runs


@dataclass(frozen=True)
class VllmConfig(EngineConfig):
    """A decoder that vLLM runs, on this machine's GPUs or its CPU (`cascade.engines.vllm`; extra `vllm`).

    Attributes:
        model: A miniature's name, a folder or a Hub id; or a GGUF file, or one on the Hub (owner/name/FILE.gguf).
        revision: Branch, tag or commit on the Hub.
        dtype: float32, float16 or bfloat16.
        quantization: How the weights are packed, in vLLM's words (awq, gptq, fp8, bitsandbytes); stores know it.
        prompt_style: raw is the paper's text, chat gives it to the model's chat template (thinking off).
        letters: auto, or bare to read option letters without a space before them.
        trust_remote_code: Run the Python that the model brings with it, with all your rights; without, it is refused.
        batch_size: Prompts that are handed over at once in live runs; vLLM makes its own passes of them.
        tensor_parallel_size: GPUs that share each block.
        pipeline_parallel_size: Stages of blocks.
        max_model_len: Tokens of prompt and answer; by default as many as the model has room for, on a CPU up to 8192.
        max_num_seqs: Prompts in one pass of vLLM's, at the most; by default its own choice.
        max_num_batched_tokens: Tokens in one pass of vLLM's, at the most; by default its own choice.
        gpu_memory_utilization: Share of a GPU's memory that vLLM takes.
        enable_prefix_caching: Read what prompts share (examples) once.
    """

    called: ClassVar[str] = "a decoder that vLLM runs"
    shows_states: ClassVar[bool] = True
    model: str
    revision: str | None = None
    dtype: str = "float32"
    quantization: str | None = None
    prompt_style: PromptStyle = "raw"
    letters: LetterForm = "auto"
    trust_remote_code: bool = False
    batch_size: int = 256
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool = True

    def build(
        self, probe: Probe | None = None, needs_confidence: bool = True, task: Task | None = None
    ) -> StatesEngine:
        """The engine with its probe; vLLM starts with the first question.

        Raises:
            CascadeError: If vLLM is not installed.
        """
        if find_spec("vllm") is None:
            raise CascadeError(f"{missing_extra(ModuleNotFoundError(name='vllm'))}, in an environment of its own")
        return Vllm(self, probe, task)

    def check_processes(self, count: int) -> None:
        """Refuses a second process: vLLM itself spreads a model over GPUs."""
        if count > 1:
            raise CascadeError(
                f"Expected one process for engine vllm, which has `tensor_parallel_size` and `pipeline_parallel_size`, "
                f"but got {count}"
            )


def _version() -> str:
    """Of the installed vLLM: its builds for CPUs have another name."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return version("vllm-cpu")


class Vllm(LocalModel):
    """A decoder that vLLM runs.

    Args:
        settings: Which, and how it is run.
        probe: See `StatesEngine`.
        task: See `StatesEngine`.

    Raises:
        CascadeError: If there is no such model, or the probe reads other states.
    """

    reads_shared_once = exits_early = False  # vLLM's prefix cache reads once, whatever a batch holds

    def __init__(self, settings: VllmConfig, probe: Probe | None = None, task: Task | None = None) -> None:
        own = ("model", "revision", "dtype", "prompt_style", "letters", "trust_remote_code", "batch_size")
        decoder = HuggingFaceModel(DecoderConfig(**{name: getattr(settings, name) for name in own}))
        super().__init__(decoder, task=task)
        self.quantization = settings.quantization
        StatesEngine.__init__(self, replace(settings, revision=decoder.origin.get("revision")), probe, task=task)
        self.own = settings
        self._kept: tuple[int, ...] | None = None

    @property
    def versions(self) -> dict[str, str]:
        """Of torch and vLLM."""
        return {
            "torch": ".".join(version("torch").split(".")[:2]),
            "vllm": ".".join(_version().split(".")[:2]),
        }

    @property
    def pass_tokens(self) -> int | None:
        """Not known: vLLM makes its own passes."""
        return None

    @property
    def context(self) -> int | None:
        """What was asked for, or what the model has room for."""
        room, limit = self.decoder.context, self.own.max_model_len
        if limit is None and not torch.cuda.is_available():
            limit = _CPU_CONTEXT
        return min(n for n in (room, limit) if n is not None) if room or limit else None

    def release(self) -> None:
        """Ends vLLM, which starts again when it is next needed."""
        if (llm := self.__dict__.pop("llm", None)) is not None:
            self._kept = None
            llm.llm_engine.engine_core.shutdown()
            del llm
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @cached_property
    def llm(self) -> Any:
        """What runs the model, its weights loaded.

        Raises:
            CascadeError: If vLLM knows no such architecture, cannot run it on this machine, or has not the memory.
        """
        on_cpu = not torch.cuda.is_available()
        for name, value in (_EVERYWHERE | (_CPU if on_cpu else {})).items():
            os.environ.setdefault(name, value)
        from vllm import LLM
        from vllm.model_executor.models import ModelRegistry

        config, own = self.decoder.config, self.own
        text = config.get_text_config()
        known = set(ModelRegistry.get_supported_archs())
        if not known & set(architectures := config.architectures or []):
            raise CascadeError(f"Expected an architecture that vLLM has for {self.name!r}, but got {architectures}")
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if on_cpu and head not in _CPU_HEADS:
            raise CascadeError(
                f"Expected heads of {', '.join(map(str, _CPU_HEADS))} for vLLM on a CPU, but those of {self.name!r} "
                f"are {head} wide; `engine: decoder` runs it"
            )
        wanted = {
            "revision": self.decoder.origin.get("revision"),
            "quantization": own.quantization,
            "max_model_len": self.context,
            "max_num_seqs": own.max_num_seqs,
            "max_num_batched_tokens": own.max_num_batched_tokens,
        }
        try:
            return LLM(
                model=self._source,
                dtype=own.dtype,
                trust_remote_code=own.trust_remote_code,
                tensor_parallel_size=own.tensor_parallel_size,
                pipeline_parallel_size=own.pipeline_parallel_size,
                gpu_memory_utilization=own.gpu_memory_utilization,
                enable_prefix_caching=own.enable_prefix_caching,
                worker_extension_cls="cascade.engines.vllm_worker.LastTokenStates",
                enforce_eager=True,  # hooks are no part of a graph
                skip_tokenizer_init=True,
                disable_log_stats=True,
                **{name: value for name, value in wanted.items() if value is not None},
            )
        except (ValueError, RuntimeError, OSError, MemoryError, NotImplementedError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CascadeError(f"Expected vLLM to start with {self.name!r}, but {lines[0]}") from error

    def read(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> tuple[list[Reply], dict[int, Tensor]]:
        """Replies and states of one pass; see `StatesEngine.read`."""
        from vllm import SamplingParams

        llm = self.llm  # starts it, which is no question's time
        if self._kept != (wanted := tuple(layers)):
            llm.collective_rpc("keep_states", args=(list(wanted), self.num_layers))
            self._kept = wanted
        chosen = [self.first_tokens(prompt) for prompt in prompts]
        asked = [
            SamplingParams(
                temperature=prompt.temperature,
                top_p=prompt.top_p or 1.0,
                seed=prompt.seed if prompt.temperature else None,
                max_tokens=prompt.completion_tokens,
                logprob_token_ids=list(tokens) or None,
                logprobs=None if tokens else 1,
                stop_token_ids=self._ends,
                detokenize=False,
            )
            for prompt, tokens in zip(prompts, chosen, strict=True)
        ]
        start = time.perf_counter()
        ids = self.decoder.prompts.encode([self.given(prompt) for prompt in prompts]).input_ids
        outputs = llm.generate([{"prompt_token_ids": one} for one in ids], asked, use_tqdm=False)
        states = self._states([output.request_id for output in outputs], wanted)
        seconds = (time.perf_counter() - start) / len(prompts)
        replies = []
        for prompt, tokens, output in zip(prompts, chosen, outputs, strict=True):
            written = output.outputs[0]
            first = FirstToken.of(self._chances(written.logprobs[0]), tokens, bool(prompt.letters))
            text = self.decoder.tokenizer.decode(written.token_ids, skip_special_tokens=True)
            for stop in prompt.stop:
                text = text.partition(stop)[0]
            replies.append(
                Reply(
                    text=text if first.place is None else prompt.letters[first.place],
                    prompt_tokens=len(output.prompt_token_ids),
                    completion_tokens=len(written.token_ids),
                    seconds=seconds,
                    finish_reason="stop" if prompt.letters or written.finish_reason == "stop" else "length",
                    **first.confidences,
                )
            )
        return replies, states

    def states_at(self, prompts: Sequence[Prompt], layer: int) -> Tensor:
        """``[prompts, hidden]``; the pass is a whole one."""
        return StatesEngine.states_at(self, prompts, layer)

    def answer(self, *args: Any, **kwargs: Any) -> Any:
        """See `StatesEngine.answer`: whole passes, and what leaves early is dropped afterwards."""
        return StatesEngine.answer(self, *args, **kwargs)

    @cached_property
    def _ends(self) -> list[int]:
        """Ids that end an answer; none of the weights is needed for them."""
        from transformers import GenerationConfig

        try:
            said = GenerationConfig.from_pretrained(self._source, revision=self.decoder.origin.get("revision"))
        except OSError:  # there is no such file
            said = GenerationConfig.from_model_config(self.decoder.config)
        ends = [said.eos_token_id, self.decoder.tokenizer.eos_token_id]
        return sorted({one for end in ends if end is not None for one in (end if isinstance(end, list) else [end])})

    @cached_property
    def _source(self) -> str:
        """Where vLLM finds the weights."""
        if self.decoder.gguf is None:
            return self.decoder.source
        return str(unpacked(self.decoder.gguf, self.revision, self.dtype))

    def _chances(self, seen: dict[int, Any]) -> Tensor:
        """Log-probabilities ``[vocabulary]`` of the tokens that were asked for and of the sampled one; −∞ elsewhere."""
        chances = torch.full((max(len(self.decoder.tokenizer), max(seen) + 1),), -torch.inf)
        for token, found in seen.items():
            chances[token] = found.logprob
        return chances

    def _states(self, requests: Sequence[str], layers: Sequence[int]) -> dict[int, Tensor]:
        states = {}
        for layer, names, dtype, data in (
            one for of_worker in self.llm.collective_rpc("take_states") for one in of_worker
        ):
            # Inside, vLLM adds a dash and letters by lot to a request's name.
            place = {name.partition("-")[0]: row for row, name in enumerate(names)}
            rows = torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).view(len(names), self.hidden_size)
            states[layer] = rows[[place[name.partition("-")[0]] for name in requests]]
        return {layer: states[layer] for layer in layers}
