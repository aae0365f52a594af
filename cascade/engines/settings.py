"""Settings of the engines that come with the project, and how those of any engine are read.

A flat mapping, as a cascade's YAML has it: `engine: NAME` says which engine; where only `model`, `endpoint` or
`encoder` stands, it is known. `engine: FILE.yaml` reads all that from a file, and what stands beside it counts more.
Starts without torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml

from cascade.engines import ENGINES
from cascade.engines.base import EngineConfig
from cascade.engines.openai_format import Kind
from cascade.engines.prompts import LetterForm
from cascade.errors import CascadeError
from cascade.tasks.base import PromptStyle
from cascade.tasks.task import Task
from cascade.yaml_files import find_yaml

if TYPE_CHECKING:
    from cascade.engines.base import Engine
    from cascade.engines.states import Readable, StatesEngine
    from probes.probe import Probe

Quantization = Literal["4bit", "8bit"]
QUANTIZATIONS: tuple[Quantization, ...] = ("4bit", "8bit")
# Which engine it is, where no `engine` says so.
_KNOWN_BY = {"model": "decoder", "endpoint": "endpoint", "encoder": "encoder"}


@dataclass(frozen=True)
class DecoderConfig(EngineConfig):
    """A Hugging Face decoder on this machine (`cascade.engines.local`).

    Attributes:
        model: A miniature's name, a folder or a Hub id; or a GGUF file, or one on the Hub (owner/name/FILE.gguf).
        revision: Branch, tag or commit on the Hub.
        dtype: float32, float16 or bfloat16; the weights are cast to it.
        device_map: As in transformers, such as auto for a model that is larger than one GPU.
        quantization: 4bit (NF4) or 8bit: bitsandbytes packs the weights, and computes in dtype.
        prompt_style: raw is the paper's text, chat gives it to the model's chat template (thinking off).
        letters: auto, or bare to read option letters without a space before them.
        trust_remote_code: Run the Python that the model brings with it, with all your rights; without, it is refused.
        batch_size: Prompts in one forward pass; by default 32, and on a CPU as many of them as it is quick with.
    """

    called: ClassVar[str] = "a decoder"
    shows_states: ClassVar[bool] = True
    model: str
    revision: str | None = None
    dtype: str = "float32"
    device_map: str | None = None
    quantization: Quantization | None = None
    prompt_style: PromptStyle = "raw"
    letters: LetterForm = "auto"
    trust_remote_code: bool = False
    batch_size: int = 32

    def build(
        self, probe: Probe | None = None, needs_confidence: bool = True, task: Task | None = None
    ) -> StatesEngine:
        """The decoder with its probe; its weights are loaded with the first question."""
        decoder = load("cascade.engines.huggingface:HuggingFaceModel")(self)
        engine: StatesEngine = load("cascade.engines.local:LocalModel")(decoder, probe, task=task)
        return engine

    def flags(self) -> dict[str, Any]:
        """As ``--data.model``, ``--data.dtype`` and so on."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("price", "batch_size")}

    def check_processes(self, count: int) -> None:
        """Refuses a second process where one model is spread over all GPUs."""
        if count > 1 and self.device_map is not None:
            raise CascadeError(
                f"Expected one device for `device_map` {self.device_map!r}, which spreads one model over all GPUs, "
                f"but got {count}"
            )


@dataclass(frozen=True)
class EndpointConfig(EngineConfig):
    """A model behind an OpenAI-compatible endpoint (`cascade.engines.endpoint`).

    Attributes:
        endpoint: As the provider calls the model.
        base_url: Such as ``http://localhost:8000/v1``; by default OpenAI's own.
        api_key_env: Environment variable that holds the key. Read when something is sent, so that what is in the cache
            needs none; it may be unset where `base_url` is this machine.
        kind: chat (/v1/chat/completions) sends the prompt as one user message, completions (/v1/completions) as it
            is.
        cache: SQLite file of replies and spending, on a local disk; endpoints and processes may share one.
        spending_cap: US dollars, or ``None`` for no cap. It covers everything ever spent through `cache` by endpoints
            that had a price, whichever run or process it was. Before a request leaves, the most that it can cost
            (a token a byte, all tokens that may be generated) has to fit under it. Attempts that may have been billed
            without our seeing it (timeouts, cut connections, malformed replies) stay counted at that most, as do
            replies whose usage cannot be (fewer tokens than their texts have) and requests under way in a process
            that is killed. Beyond that the endpoint's usage is believed.
        concurrency: Requests under way at once.
        timeout: Seconds of silence after which an attempt is given up; five times as many in all.
        attempts: For each question, the first one included; fewer where nothing listens at `base_url` on this machine.
        parameters: How many, where that is known, for costs in FLOPs.
        top_logprobs: The most alternatives that the provider shows; by default 20 for chat and 5 for completions.
        limit_field: What the provider calls the most tokens to generate; by default ``max_completion_tokens`` for chat
            and ``max_tokens`` for completions. One that does not know the name may generate without end.
        continues: Whether a chat server goes on with an assistant's turn that is begun, as vLLM's does: "Answer:" of
            multiple choice begins it then, as it does for a decoder here.
        options: Further fields of the request (``reasoning_effort``); ``null`` leaves out one of ours, such as
            ``temperature``. vLLM's ``logprob_token_ids`` shows the probability of every option letter, whose tokens'
            ids are given.
        backoff: Seconds that the first pause before another attempt lasts at most, at random. The most doubles with
            every attempt, up to a minute; a provider's ``Retry-After`` is added, up to another.
    """

    called: ClassVar[str] = "an endpoint"
    named_by: ClassVar[str] = "endpoint"
    endpoint: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    kind: Kind = "chat"
    cache: Path = Path("runs/requests.sqlite")
    spending_cap: float | None = None
    concurrency: int = 8
    timeout: float = 60.0
    attempts: int = 6
    parameters: int | None = None
    top_logprobs: int | None = None
    limit_field: str | None = None
    continues: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    backoff: float = 0.5

    def build(self, probe: Probe | None = None, needs_confidence: bool = True, task: Task | None = None) -> Engine:
        """The endpoint; nothing is sent before it is asked."""
        if probe is not None:
            raise CascadeError(f"Expected no probe for {self.name!r}, {self.called}, which shows no hidden states")
        engine: Engine = load("cascade.engines.endpoint:Endpoint")(self, needs_confidence)
        return engine

    def remark(self, dollars: float) -> str:
        """Whether its spending cap is too low."""
        low = self.spending_cap is not None and dollars > self.spending_cap
        return f"above its spending_cap of {self.spending_cap:g} dollars" if low else ""


@dataclass(frozen=True)
class EncoderConfig(EngineConfig):
    """A Hugging Face encoder, which answers nothing and reads for other models (`cascade.engines.encoder`).

    Attributes:
        encoder: A folder or a Hub id.
        revision: Branch, tag or commit on the Hub.
        max_tokens: Longer texts are cut.
    """

    called: ClassVar[str] = "an encoder"
    named_by: ClassVar[str] = "encoder"
    shows_states: ClassVar[bool] = True
    answers: ClassVar[bool] = False
    encoder: str
    revision: str | None = None
    max_tokens: int = 256

    def build(self, probe: Probe | None = None, needs_confidence: bool = True, task: Task | None = None) -> Readable:
        """The encoder, which is loaded at once."""
        encoder: Readable = load("cascade.engines.encoder:Encoder")(self)
        return encoder


def load(where: str) -> Any:
    """What stands at ``module:name``, imported now and not before."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def engine_config(name: str) -> type[EngineConfig]:
    """The settings class of an engine by its name in `ENGINES`.

    Raises:
        CascadeError: If there is no such engine.
    """
    if name not in ENGINES:
        raise CascadeError(f"Expected `engine` to be one of {', '.join(ENGINES)}, but got {name!r}")
    found: type[EngineConfig] = load(ENGINES[name])
    return found


def settings_of(
    values: Mapping[str, Any] | str,
    what: str = "each of `models`",
    own: Sequence[str] = (),
    keys: Sequence[str] = ("model", "endpoint"),
) -> EngineConfig:
    """An engine's settings from a flat mapping of them.

    Args:
        values: By name; ``engine`` says which engine where that is not known by the others. Or that alone.
        what: Whose they are, for errors.
        own: Names of more that was given, for engines that show hidden states (a probe).
        keys: Fields, one of which stands for an engine where none is named.

    Raises:
        CascadeError: If it is not known which engine is meant, or a setting is none of that engine's.
    """
    values = _from_file(values)
    if (name := values.pop("engine", None)) is None:
        given = [key for key in keys if values.get(key) is not None]
        if len(given) != 1:
            shown = ", ".join(f"{key}={values.get(key)!r}" for key in keys)
            one = " or ".join(f"`{key}`" for key in keys)
            raise CascadeError(f"Expected {what} to have {one}, and not both, or an `engine`'s name, but got {shown}")
        name = _KNOWN_BY[given[0]]
    cls = engine_config(name)
    known = {f.name for f in fields(cls)}
    foreign = [*(() if cls.shows_states else own), *(key for key in values if key not in known)]
    if foreign:
        this = repr(values.get(cls.named_by, name))
        others = [engine_config(other) for other in ("decoder", "endpoint") if other != name]
        of = {other.called for other in others if set(foreign) <= {f.name for f in fields(other)} | {*own}}
        raise CascadeError(
            f"Expected settings of {cls.called} for {this}, but got {', '.join(f'`{key}`' for key in foreign)}"
            + (f", of {of.pop()}" if len(of) == 1 else "")
        )
    if cls.named_by not in values and cls.__dataclass_fields__[cls.named_by].default is MISSING:
        raise CascadeError(f"Expected {what} to have {cls.named_by!r}, as {cls.called} needs it, but it has not")
    return cls(**values)


def _from_file(values: Mapping[str, Any] | str) -> dict[str, Any]:
    """Settings, those of a file among them."""
    given = {"engine": values} if isinstance(values, str) else dict(values)
    name = given.get("engine")
    if not isinstance(name, str) or Path(name).suffix not in (".yaml", ".yml"):
        return given
    # A command line that reads a YAML file has gone to its folder: the one it was called in is that or above.
    folders = (Path(), *Path.cwd().parents)
    path = next((path for folder in folders if (path := folder / name).is_file()), find_yaml(name))
    if not path.is_file():
        raise CascadeError(f"Expected settings of an engine at {name}, but there is no such file")
    try:
        read = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CascadeError(f"Expected {name} to be YAML of an engine's settings, but {error}") from error
    if not isinstance(read, dict) or str(read.get("engine", "")).endswith((".yaml", ".yml")):
        raise CascadeError(f"Expected {name} to be YAML of an engine's settings, but got {read!r}")
    del given["engine"]
    return read | given


def read_settings(
    values: Mapping[str, Any] | str,
    what: str = "each of `models`",
    own: Sequence[str] = (),
    keys: Sequence[str] = ("model", "endpoint"),
) -> EngineConfig:
    """As `settings_of`, from what YAML or a command line gives: each value is held against its type.

    Raises:
        CascadeError: As `settings_of`; or if a value is of another type.
    """
    from jsonargparse import ArgumentParser

    values = _from_file(values)
    found = settings_of(values, what, own, keys)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(type(found))
    given = {key: value for key, value in values.items() if key != "engine"}
    try:
        read = parser.instantiate(parser.parse_object(given))
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CascadeError(f"Expected settings of {found.called} for {found.name!r}, but {reason}") from error
    return type(found)(**{key: read[key] for key in given})
