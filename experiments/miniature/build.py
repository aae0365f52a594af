"""Trains the miniature's models from scratch: `python -m experiments.miniature.build`.

Every batch follows from the seed and its step, and a checkpoint is written every few hundred steps, so a
build that was stopped goes on where it was. Not for training models of any other kind.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser
from safetensors import safe_open
from safetensors.torch import save
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cascade.errors import CascadeError, one_line_errors
from cascade.miniature.families import ASSETS, MODEL_NAMES, model_config, size_of
from experiments.miniature.stream import TrainingStream
from experiments.miniature.tokenizer import build_tokenizer
from probes.files import write_atomically

BATCH = 64
WARMUP = 200
SAVE_EVERY = 250
IGNORED = -100
CHOICE_ENDS = ("\nB.", "\nC.", "\nD.", "\nAnswer:")


@dataclass(frozen=True)
class Batch:
    """One step's tensors, right-padded, int64, ``[batch, time]`` each.

    Attributes:
        ids: Token ids.
        labels: What should follow each position; ``-100`` everywhere but in the completion.
        verdicts: At the last token of each choice whether that choice is right (0 or 1); ``-100`` elsewhere.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    verdicts: torch.Tensor

    def to(self, device: str) -> Batch:
        """The same on another device."""
        return Batch(self.ids.to(device), self.labels.to(device), self.verdicts.to(device))


def encode_batch(tokenizer: PreTrainedTokenizerFast, stream: TrainingStream, step: int) -> Batch:
    """The examples of one step as tensors."""
    examples = stream.batch(step, BATCH)
    prompts = tokenizer([e.prompt for e in examples]).input_ids
    completions = tokenizer([e.completion for e in examples], add_special_tokens=False).input_ids
    rows = [(p, [*c, tokenizer.eos_token_id]) for p, c in zip(prompts, completions, strict=True)]
    shape = (len(rows), max(len(p) + len(c) for p, c in rows) - 1)
    ids = torch.full(shape, tokenizer.pad_token_id)
    labels, verdicts = torch.full(shape, IGNORED), torch.full(shape, IGNORED)
    ends = tokenizer.convert_tokens_to_ids(list(CHOICE_ENDS))
    for i, ((p, c), example) in enumerate(zip(rows, examples, strict=True)):
        whole = torch.tensor(p + c)
        ids[i, : len(whole) - 1] = whole[:-1]
        labels[i, len(p) - 1 : len(whole) - 1] = whole[len(p) :]
        for end, letter in zip(ends, "ABCD", strict=True):
            if end in p:
                verdicts[i, p.index(end) - 1] = int(example.completion == f" {letter}")
    return Batch(ids, labels, verdicts)


class Teacher(nn.Module):
    """The training loss: cross-entropy of the completion, and a verdict on each choice.

    The answer's letter is one bit or two a prompt, and learning by it alone stalls at a guess for thousands of
    steps. So a linear head, thrown away after training, also says at the end of each choice, one block below
    the top, whether that choice is right. The top block then has only to look up the letter.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.verdict = nn.Linear(model.config.hidden_size, 1)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch; the vocabulary's logits are computed at the completion alone."""
        output = self.model.base_model(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
        wanted, judged = batch.labels != IGNORED, batch.verdicts != IGNORED
        logits = self.model.get_output_embeddings()(output.last_hidden_state[wanted])
        loss = nn.functional.cross_entropy(logits, batch.labels[wanted])
        if bool(judged.any()):
            below_top = output.hidden_states[self.model.config.num_hidden_layers - 1]
            verdicts = self.verdict(below_top[judged]).squeeze(-1)
            loss = loss + nn.functional.binary_cross_entropy_with_logits(verdicts, batch.verdicts[judged].float())
        return loss


def initialise(model: PreTrainedModel, seed: int) -> None:
    """Draws the weights anew with standard deviation 1/√fan-in (embeddings 0.1).

    The usual 0.02 is far too small at these widths: with it the letters' meaning is found very late or not.
    """
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            std = 0.1 if "embed" in name else parameter.shape[1] ** -0.5
            nn.init.normal_(parameter, std=std)


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _save(path: Path, recipe: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"weight.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for (name, _), state in zip(model.named_parameters(), optimizer.state_dict()["state"].values(), strict=True):
        tensors |= {f"adam.{key}.{name}": value.detach().cpu().contiguous() for key, value in state.items()}
    write_atomically(path, save(tensors, metadata={"step": str(step), "recipe": recipe}))


def _resume(path: Path, recipe: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads a checkpoint into model and optimiser; the number of steps it had done, 0 where there is none."""
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        if file.metadata().get("recipe") != recipe:
            raise CascadeError(
                f"Expected {path} to be a checkpoint of this very build, but it is of another; delete it"
            )
        done = int(file.metadata()["step"])
        names = [name for name, _ in model.named_parameters()]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"weight.{name}"))
        state = {
            i: {key: file.get_tensor(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            for i, name in enumerate(names)
        }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return done


def train(model_name: str, work: Path, out: Path = ASSETS, seed: int = 0, device: str = "cpu") -> Path:
    """Trains one miniature model and writes it as a standard folder in half precision.

    Args:
        model_name: Such as ``mini-llama-small``.
        work: Where checkpoints lie while training; a stopped build goes on from here.
        out: The model's folder is made here.
        seed: Of the initial weights and the stream of examples.
        device: ``cpu`` or ``cuda``.

    Returns:
        The model's folder.
    """
    _, size = size_of(model_name)
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_config(model_config(model_name, len(tokenizer)))
    initialise(model, seed)
    teacher = Teacher(model).to(device).train()
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    stream = TrainingStream(seed, size.steps, size.in_context)
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / f"{model_name}.safetensors"
    recipe = json.dumps([model_name, seed, BATCH, asdict(size), tokenizer.backend_tokenizer.to_str()])
    recipe = hashlib.sha256(recipe.encode()).hexdigest()
    start = _resume(checkpoint, recipe, teacher, optimizer)
    bar = tqdm(range(start, size.steps), initial=start, total=size.steps, desc=model_name, unit="step", mininterval=5)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = size.learning_rate * _schedule(step, size.steps)
        loss = teacher(encode_batch(tokenizer, stream, step).to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        optimizer.step()
        if step % 50 < 3:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == size.steps:
            _save(checkpoint, recipe, step + 1, teacher, optimizer)
    folder = out / model_name
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


@one_line_errors()
def main(args: list[str] | None = None) -> None:
    """The entry point: trains the named models, or all six, one after another."""
    parser = ArgumentParser(prog="python -m experiments.miniature.build", description=__doc__, exit_on_error=False)
    parser.add_argument("--models", nargs="+", choices=MODEL_NAMES, default=list(MODEL_NAMES), help="which ones")
    parser.add_argument("--work", type=Path, default=Path("runs/build"), help="checkpoints; a stopped build resumes")
    parser.add_argument("--out", type=Path, default=ASSETS, help="each model gets a folder here")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training examples; the world has its own")
    parser.add_argument("--device", type=Literal["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    values = parser.parse_args(args)
    for name in values.models:
        print(train(name, values.work, values.out, values.seed, values.device))


if __name__ == "__main__":
    main()
