"""Small encoders as readers: every layer's states, averaged over a text's tokens.

A reader answers nothing. Its states say what a question looks like, from which a probe may predict whether some
other model, perhaps one behind an API, will know the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from huggingface_hub.utils import httpx
from torch import Tensor

from cascade.engines.base import Prompt
from cascade.engines.files import find_model, hash_folder
from cascade.engines.huggingface import hash_tokenizer
from cascade.engines.passes import of_like_length
from cascade.engines.settings import EncoderConfig
from cascade.engines.states import Readable, States
from cascade.errors import CascadeError
from cascade.progress import progress
from cascade.tasks.task import Task
from probes.capture import HiddenStateCapture
from probes.errors import ProbeError
from probes.store import HiddenStateStore, StoreKey, StoreWriter

POSITION = "mean_of_tokens"


class Encoder(Readable):
    """A Hugging Face encoder and its tokenizer, in float32 on the CPU.

    Args:
        settings: Which, and how much of a text it reads.
        name: What stores and probes call it; by default as the settings do.

    Raises:
        CascadeError: If it cannot be loaded.
    """

    parameters: int = 0

    def __init__(self, settings: EncoderConfig, name: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        source, max_tokens = settings.encoder, settings.max_tokens
        try:
            origin = find_model(source, settings.revision)
            self.tokenizer = AutoTokenizer.from_pretrained(source, **origin, trust_remote_code=False)
            self.model = AutoModel.from_pretrained(
                source, dtype=torch.float32, **origin, trust_remote_code=False
            ).eval()
        except ProbeError as error:
            raise CascadeError(str(error)) from error
        except (OSError, ValueError, httpx.HTTPError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CascadeError(f"Expected an encoder in {source!r}, but it could not be loaded: {reason}") from error
        self.name, self.max_tokens = name or source, max_tokens
        self.revision = origin.get("revision") or hash_folder(Path(source))
        self.depth: int = self.model.config.num_hidden_layers
        self.hidden_size: int = self.model.config.hidden_size
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.template_hash = f"max_tokens={max_tokens}"  # texts are read as they are, up to there

    def shown_for(self, task: Task | None = None) -> States:
        """What its states are of: any text, read as it is."""
        known = (self.hidden_size, self.name, self.revision, "float32")
        return States(POSITION, *known, frozenset([self.template_hash]))

    def states_at(self, prompts: Sequence[Prompt], layer: int) -> Tensor:
        """``[prompts, hidden]``: the mean over each prompt's tokens."""
        return self.run([prompt.text for prompt in prompts])[layer]

    @torch.inference_mode()
    def run(self, texts: Sequence[str]) -> dict[int, Tensor]:
        """For each layer ``[texts, hidden]``, float32: the mean over each text's tokens."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        with HiddenStateCapture(self.model) as capture:
            capture.arm_mean(batch.attention_mask)
            self.model(**batch)
        return dict(capture.states)


def read_texts(
    encoder: Encoder, texts: Sequence[str], task: str, task_revision: str, root: Path, batch_size: int = 64
) -> HiddenStateStore:
    """A store of every layer's states of some texts, one row each in order; what is on disk is not read again.

    Args:
        encoder: The reader.
        texts: One a question.
        task: Their name.
        task_revision: Hash of the texts.
        root: Folder of stores.
        batch_size: Texts in one pass, of like length.
    """
    key = StoreKey(
        model=encoder.name,
        model_revision=encoder.revision,
        tokenizer_hash=hash_tokenizer(encoder.tokenizer),
        template_hash=encoder.template_hash,
        task=task,
        task_revision=task_revision,
        dtype="float32",
        layers=tuple(range(encoder.depth + 1)),
        position=POSITION,
        versions={name: ".".join(version(name).split(".")[:2]) for name in ("torch", "transformers")},
    )
    writer = StoreWriter(root, key, len(texts), encoder.hidden_size)
    writer.check_room()
    pending = writer.pending()
    with progress(sum(len(writer.shards[n]) for n in pending), task) as bar:
        for number in pending:
            rows = writer.shards[number]
            states = {layer: torch.empty(len(rows), encoder.hidden_size) for layer in key.layers}
            for batch in of_like_length(rows, [len(text) for text in texts], batch_size):
                for layer, state in encoder.run([texts[row] for row in batch]).items():
                    states[layer][torch.tensor(batch) - rows.start] = state
                bar.update(len(batch))
            writer.write(number, states)
    return writer.finish()
