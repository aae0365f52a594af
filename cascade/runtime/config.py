"""What a cascade is made of, as YAML or keyword arguments, and how it is put together.

One entry a model, smallest first: a local decoder with its probe, or an OpenAI-compatible endpoint. The policy is two
thresholds for every stage, or whatever `cascade.simulate` chose, read from its report.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
from jsonargparse import ArgumentParser

from cascade.errors import CascadeError
from cascade.models.base import Model
from cascade.models.huggingface import HuggingFaceModel
from cascade.models.local import LocalModel
from cascade.models.prompts import LetterForm
from cascade.models.weights import Quantization
from cascade.runtime.engine import Cascade, Reader
from cascade.simulation.ledgers import Prices
from cascade.simulation.policy import LivePolicy, ThresholdPolicy, Thresholds
from cascade.simulation.policy_file import read_policy
from cascade.simulation.schema import read_scores
from cascade.simulation.scores import ChainScores, align, check_chain
from cascade.tasks.base import PromptStyle
from probes.errors import ProbeError
from probes.probe import Probe

_OF_DECODERS = "probe dtype revision device_map quantization batch_size prompt_style letters trust_remote_code".split()
_OF_ENDPOINTS = "base_url api_key_env kind cache spending_cap concurrency timeout attempts parameters".split()
_OF_THRESHOLDS = "p_t p_ik p_ik_reader".split()
DEFAULT_CHAIN = "mini-llama-small,mini-llama-medium,mini-llama-large"


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens read and written."""

    input: float
    output: float


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
        trust_remote_code: Of a decoder: run the Python that it brings with it; without, it is refused.
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
    trust_remote_code: bool = False
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
            self.trust_remote_code,
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


def build_cascade(config: CascadeConfig) -> Cascade:
    """Puts a cascade together. Weights are loaded with the first question, and not before.

    Raises:
        CascadeError, ProbeError: If a model, probe, policy or score table is missing or does not fit.
    """
    members = config.members
    names = [member.name for member in members]
    check_chain(names)
    models = [build_model(member, last=place + 1 == len(members)) for place, member in enumerate(members)]
    readers = {place: _reader(member.reader) for place, member in enumerate(members) if member.reader is not None}
    policy, normalize = _policy(config, names, readers)
    if config.policy is not None:
        _check_probes(policy, models, config.policy)
    priced = {m.name: (m.price.input, m.price.output) for m in members if m.price is not None}
    prices = Prices("the configuration", priced) if len(priced) == len(members) else None
    return Cascade(
        models,
        policy,
        config.name,
        readers,
        prices,
        _calibration(config, names, normalize),
        normalize,
        config.keep_loaded,
    )


def _policy(config: CascadeConfig, names: list[str], readers: dict[int, Reader]) -> tuple[LivePolicy, bool]:
    """The policy, and whether it decides by P(T) over the options' mass."""
    if config.policy is not None:
        policy, chosen = read_policy(Path(config.policy), names)
        if None not in (chosen, config.normalize) and chosen != config.normalize:
            raise CascadeError(
                f"Expected `normalize` to be {json.dumps(chosen)}, as the policy in {config.policy} was chosen so, but "
                f"got {json.dumps(config.normalize)}"
            )
        return policy, bool(config.normalize if chosen is None else chosen)
    thresholds = [
        Thresholds(config.p_t, config.p_ik, config.p_ik_reader if place in readers else None)
        for place in range(len(names) - 1)
    ]
    return ThresholdPolicy.whole(thresholds), bool(config.normalize)


def _check_probes(policy: LivePolicy, models: list[Model], source: Path) -> None:
    """Refuses a policy that was chosen with P(IK) where nobody reads P(IK): without it, it decides otherwise.

    Thresholds in a configuration are every stage's, and pass over the models that have no probe.
    """
    for place in policy.places:
        if policy.gates(place).p_ik and models[place].probe_layer is None:
            raise CascadeError(
                f"Expected {models[place].name!r} to have a probe, as the policy in {source} asks one, but it has "
                f"none; name its `probe`, or choose a policy without P(IK)"
            )


def build_model(member: Member, last: bool = False) -> Model:
    """One model of a cascade; the last one has no probe but one that is named, and gives no confidence if it is remote.

    Raises:
        CascadeError, ProbeError: If the model or its probe is missing, or they do not fit.
    """
    if member.endpoint is not None:
        from cascade.models.endpoint import Endpoint

        return Endpoint(
            name=member.endpoint,
            base_url=member.base_url,
            api_key_env=member.api_key_env,
            kind=member.kind,
            parameters=member.parameters,
            price=None if member.price is None else (member.price.input, member.price.output),
            cache=member.cache,
            spending_cap=member.spending_cap,
            concurrency=member.concurrency,
            timeout=member.timeout,
            attempts=member.attempts,
            needs_confidence=not last,
        )
    decoder = member.decoder
    assert decoder is not None  # `Member` has one or the other
    return LocalModel(decoder, _probe(member, last), member.batch_size)


def _probe(member: Member, last: bool) -> Probe | None:
    if member.probe == "none":
        return None
    if member.probe is not None:
        return _named_probe(member.probe)
    from cascade.miniature.shipped import shipped_probe

    folder = None if last else shipped_probe(member.name)
    return None if folder is None else Probe.from_pretrained(folder)


def _reader(settings: ReaderSettings) -> Reader:
    from cascade.models.encoder import Encoder
    from cascade.models.reader import ModelReader

    if (settings.model is None) == (settings.encoder is None):
        raise CascadeError("Expected a reader to have `model` or `encoder`, and not both")
    return ModelReader(settings.decoder or Encoder(str(settings.encoder)), _named_probe(settings.probe))


def _named_probe(name: str) -> Probe:
    try:
        return Probe.from_pretrained(name)
    except ProbeError as error:
        if Path(name).is_dir():
            raise
        raise CascadeError(f"{error}; a probe that is not there yet is trained by `python -m cascade.train`") from error


def _calibration(config: CascadeConfig, names: list[str], normalize: bool) -> ChainScores | None:
    table: pa.Table | None
    if config.calibration:
        table = read_scores([Path(path) for path in config.calibration])
    else:
        from cascade.miniature.shipped import validation_scores

        table = validation_scores(names)
    return None if table is None else align(table, names, normalize=normalize)
