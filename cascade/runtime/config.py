"""What a cascade is made of, as YAML or keyword arguments, and how it is put together.

One entry a model, smallest first: a local decoder with its probe, or an OpenAI-compatible endpoint. The policy is two
thresholds for every stage, or whatever `cascade.simulate` chose, read from its report.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from cascade.engines.base import Price
from cascade.engines.huggingface import HuggingFaceModel
from cascade.engines.prompts import LetterForm
from cascade.engines.weights import Quantization
from cascade.errors import CascadeError
from cascade.tasks.base import PromptStyle

_OF_DECODERS = "probe dtype revision device_map quantization batch_size prompt_style letters".split()
_OF_ENDPOINTS = "base_url api_key_env kind cache spending_cap concurrency timeout attempts parameters".split()
_OF_THRESHOLDS = "p_t p_ik p_ik_reader".split()
DEFAULT_CHAIN = "mini-llama-small,mini-llama-medium,mini-llama-large"


@dataclass(frozen=True)
class ReaderSettings:
    """Who reads the question for a model before that is run.

    Attributes:
        probe: Folder or Hub id of the probe that predicts the model.
        model: A decoder, or
        encoder: an encoder, by folder or Hub id.
        dtype, device_map, quantization, prompt_style: Of a decoder: see `Member`.
    """

    probe: str
    model: str | None = None
    encoder: str | None = None
    dtype: str = "float32"
    device_map: str | None = None
    quantization: Quantization | None = None
    prompt_style: PromptStyle = "raw"

    @property
    def decoder(self) -> HuggingFaceModel | None:
        """The decoder, not loaded yet, where it is one."""
        if self.model is None:
            return None
        return HuggingFaceModel(self.model, None, self.dtype, self.device_map, self.quantization, self.prompt_style)


@dataclass(frozen=True)
class Member:
    """One model of a cascade: ``model`` for a decoder on this machine, ``endpoint`` for one behind an API.

    Attributes:
        model: A miniature's name, a folder or a Hub id.
        endpoint: The provider's name of a model.
        probe: Of a decoder: folder or Hub id of its P(IK) probe, or ``none``. By default a miniature has the one that
            is shipped with it, and any other model none.
        reader: Who says P(IK) of this model before it is run.
        dtype: Of a decoder: float32, float16 or bfloat16.
        revision: Of a decoder: branch, tag or commit on the Hub.
        device_map: Of a decoder: as in transformers, such as auto for one that is larger than a GPU.
        quantization: Of a decoder: 4bit or 8bit; bitsandbytes packs the weights.
        batch_size: Of a decoder: prompts in one forward pass.
        prompt_style: Of a decoder: raw (the paper's text) or chat (through its chat template, thinking off), as the
            probe was trained.
        letters: Of a decoder: auto, or bare to read option letters without a space before them.
        base_url: Of an endpoint: where it is; by default OpenAI's own.
        api_key_env: Of an endpoint: environment variable that holds the key.
        kind: Of an endpoint: chat (/v1/chat/completions) or completions (/v1/completions).
        cache: Of an endpoint: SQLite file of the replies and of what was spent.
        spending_cap: Of an endpoint: US dollars that may ever be spent through that file.
        concurrency: Of an endpoint: requests at once.
        timeout: Of an endpoint: seconds for one request.
        attempts: Of an endpoint: how often one request is tried.
        parameters: Of an endpoint: how many, where that is known, for costs in FLOPs.
        price: What a provider charges.
    """

    model: str | None = None
    endpoint: str | None = None
    probe: str | None = None
    reader: ReaderSettings | None = None
    dtype: str = "float32"
    revision: str | None = None
    device_map: str | None = None
    quantization: Quantization | None = None
    batch_size: int = 32
    prompt_style: PromptStyle = "raw"
    letters: LetterForm = "auto"
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    kind: Literal["chat", "completions"] = "chat"
    cache: Path = Path("runs/requests.sqlite")
    spending_cap: float | None = None
    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6
    parameters: int | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.endpoint is None):
            raise CascadeError(
                f"Expected each of `models` to have `model` or `endpoint`, and not both, but got model={self.model!r}, "
                f"endpoint={self.endpoint!r}"
            )
        this, other, foreign = "a decoder", "an endpoint", _OF_ENDPOINTS
        if self.endpoint is not None:
            this, other, foreign = other, this, [n for n in _OF_DECODERS if (n, self.probe) != ("probe", "none")]
        if given := _given(self, foreign):
            raise CascadeError(
                f"Expected settings of {this} for {self.name!r}, but got {', '.join(f'`{name}`' for name in given)}, "
                f"of {other}"
            )

    @property
    def name(self) -> str:
        """As score tables call it."""
        name = self.model or self.endpoint
        assert name is not None
        return name

    @property
    def decoder(self) -> HuggingFaceModel | None:
        """The decoder, not loaded yet, where it is one."""
        if self.model is None:
            return None
        return HuggingFaceModel(
            self.model,
            self.revision,
            self.dtype,
            self.device_map,
            self.quantization,
            self.prompt_style,
            self.letters,
        )


@dataclass(frozen=True)
class CascadeConfig:
    """A whole cascade.

    Attributes:
        chain: Local models with nothing more to say of them, smallest first, separated by commas.
        models: Instead of ``chain``, one entry a model.
        name: What a server calls the whole.
        policy: report.json of `cascade.simulate`, or a JSON file of one policy; instead of thresholds, which stay as
            they are by default.
        p_t: P(T) threshold of every stage.
        p_ik: P(IK) threshold of every stage.
        p_ik_reader: Threshold of every stage that has a reader.
        normalize: Decide by P(T) over the options' mass instead of the raw one, where a question has options. By
            default as the policy's file says, and the raw one where there is none.
        calibration: Score tables of the questions that chose the policy, to watch for drift and to choose by budget;
            for miniatures they are shipped.
        keep_loaded: Keep every model in memory; without, a file of questions is answered one model after another.
        shots: Examples in each prompt, from the dev split of the task that is asked; as the probes were trained with.
    """

    chain: str | None = None
    models: list[Member] = field(default_factory=list)
    name: str = "cascade"
    policy: Path | None = None
    p_t: float | None = 0.9
    p_ik: float | None = 0.5
    p_ik_reader: float | None = None
    normalize: bool | None = None
    calibration: list[Path] = field(default_factory=list)
    keep_loaded: bool = True
    shots: int = 0

    def __post_init__(self) -> None:
        if self.chain is not None and self.models:
            raise CascadeError("Expected `chain` or `models`, but got both")
        if self.policy is not None and (given := _given(self, _OF_THRESHOLDS)):
            shown = ", ".join(f"{name}={getattr(self, name)}" for name in given)
            raise CascadeError(
                f"Expected `policy` or thresholds, but got both: {self.policy}, which has its own, and {shown}"
            )

    @classmethod
    def read(cls, path: Path | str | None) -> CascadeConfig:
        """From a YAML file; the default where there is none.

        Raises:
            CascadeError: If there is no such file, or it is none of a cascade.
        """
        if path is None:
            return cls()
        if not Path(path).is_file():
            raise CascadeError(f"Expected a cascade's configuration at {path}, but there is no such file")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        try:
            values = parser.instantiate(parser.parse_path(path))
        except Exception as error:
            raise CascadeError(f"Expected {path} to be a cascade's configuration, but {error}") from error
        return cls(**values.as_dict()) if not isinstance(values, cls) else values

    @property
    def members(self) -> tuple[Member, ...]:
        """The models, smallest first."""
        if self.models:
            return tuple(self.models)
        names = (self.chain or DEFAULT_CHAIN).split(",")
        return tuple(Member(model=name.strip()) for name in names if name.strip())


def _given(settings: Member | CascadeConfig, names: list[str]) -> list[str]:
    """Those settings that are not as they are by default."""
    return [f.name for f in fields(settings) if f.name in names and getattr(settings, f.name) != f.default]
