"""Trains the miniature's models from scratch: `python -m cascade.miniature.build`.

Every batch follows from the seed and its step, and a checkpoint is written every few hundred steps, so a
build that was stopped goes on where it was. Not for training models of any other kind.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cascade.miniature.families import ASSETS, model_config, size_of
from cascade.miniature.questions import TrainingStream
from cascade.miniature.tokenizer import build_tokenizer

BATCH = 64
WARMUP = 200
SAVE_EVERY = 250
IGNORED = -100


def encode_batch(
    tokenizer: PreTrainedTokenizerFast, stream: TrainingStream, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of one step, ``[batch, time]``, int64, right-padded.

    The labels are shifted: ``labels[:, t]`` is what should follow position ``t``, ``-100`` everywhere but in
    the completion.
    """
    examples = stream.batch(step, BATCH)
    prompts = tokenizer([e.prompt for e in examples]).input_ids
    completions = tokenizer([e.completion for e in examples], add_special_tokens=False).input_ids
    rows = [(p, [*c, tokenizer.eos_token_id]) for p, c in zip(prompts, completions, strict=True)]
    width = max(len(p) + len(c) for p, c in rows) - 1
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), IGNORED)
    for i, (p, c) in enumerate(rows):
        whole = torch.tensor(p + c)
        ids[i, : len(whole) - 1] = whole[:-1]
        labels[i, len(p) - 1 : len(whole) - 1] = whole[len(p) :]
    return ids, labels


def completion_loss(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the completion's tokens; the vocabulary's logits are computed at those alone."""
    states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = labels != IGNORED
    return nn.functional.cross_entropy(model.get_output_embeddings()(states[wanted]), labels[wanted])


def initialise(model: PreTrainedModel, seed: int) -> None:
    """Draws the weights anew with standard deviation 1/√fan-in (embeddings 0.1).

    The usual 0.02 is far too small at these widths: with it the letters are not learnt in 1,500 steps, with
    this in 500 to 900.
    """
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            std = 0.1 if "embed" in name else parameter.shape[1] ** -0.5
            nn.init.normal_(parameter, std=std)


def _learning_rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"model.{name}": p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    for (name, _), state in zip(model.named_parameters(), optimizer.state_dict()["state"].values(), strict=True):
        tensors |= {f"adam.{key}.{name}": value.detach().cpu().contiguous() for key, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step)})
    partial.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Loads a checkpoint into model and optimiser; the number of steps it had done."""
    with safe_open(path, framework="pt") as file:
        done = int(file.metadata()["step"])
        names = [name for name, _ in model.named_parameters()]
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
        state = {
            i: {key: file.get_tensor(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            for i, name in enumerate(names)
        }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return done


def train(model_name: str, work: Path, seed: int = 0, device: str = "cpu") -> Path:
    """Trains one miniature model and writes it as a standard folder in half precision.

    Args:
        model_name: Such as ``mini-llama-small``.
        work: Where checkpoints lie while training; a stopped build goes on from here.
        seed: Of the initial weights and the stream of examples.
        device: ``cpu`` or ``cuda``.

    Returns:
        The model's folder.
    """
    _, size = size_of(model_name)
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_config(model_config(model_name, len(tokenizer)))
    initialise(model, seed)
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, size.steps))
    stream = TrainingStream(seed, size.steps)
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / f"{model_name}.safetensors"
    start = _resume(checkpoint, model, optimizer) if checkpoint.exists() else 0
    for _ in range(start):
        scheduler.step()
    bar = tqdm(range(start, size.steps), initial=start, total=size.steps, desc=model_name, unit="step", mininterval=5)
    for step in bar:
        ids, labels = encode_batch(tokenizer, stream, step)
        loss = completion_loss(model, ids.to(device), labels.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 50 < 3:
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == size.steps:
            _save(checkpoint, step + 1, model, optimizer)
    folder = ASSETS / model_name
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder
