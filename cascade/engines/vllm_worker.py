"""What runs inside vLLM's workers: hooks that keep one state a prompt and layer, that of its last token.

Nothing else leaves a worker, whatever a prompt's length. vLLM adds `LastTokenStates` to its worker class
(``worker_extension_cls``), and the engine calls the two methods by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LastTokenStates:
    """Keeps the raw output of blocks at the last token of each prompt.

    Layer ℓ is the output of the ℓ-th block, residual included, and 0 the embeddings: the layers of `probes.capture`.
    With tensor parallelism every rank has the same states, and the first one keeps them; with pipeline parallelism
    each stage keeps those of its own blocks.
    """

    model_runner: Any

    def keep_states(self, layers: list[int], num_layers: int) -> None:
        """From now on keeps the states of some layers, in place of those that were kept before."""
        from vllm.distributed import get_pp_group, get_tensor_model_parallel_rank

        for handle in getattr(self, "_handles", ()):
            handle.remove()
        self._handles: list[Any] = []
        self._kept: dict[int, list[tuple[list[str], Tensor]]] = {}
        self._rows: tuple[list[str], Tensor] = [], torch.empty(0, dtype=torch.long)
        if not layers or get_tensor_model_parallel_rank() != 0:
            return
        blocks = _blocks(self.model_runner.model, num_layers)
        here = [place for place, block in enumerate(blocks) if not type(block).__name__.startswith("PPMissing")]
        first = blocks[here[0]]
        self._handles.append(first.register_forward_pre_hook(self._find_rows))
        if 0 in layers and get_pp_group().is_first_rank:
            self._handles.append(first.register_forward_pre_hook(self._keep_embeddings, with_kwargs=True))
        for layer in layers:
            if layer - 1 in here:
                self._handles.append(blocks[layer - 1].register_forward_hook(self._keep_block(layer)))

    def take_states(self) -> list[tuple[int, list[str], str, bytes]]:
        """For each layer the requests, the dtype and the bytes of states ``[requests, hidden]``, given away.

        Bytes, because what goes from one process of vLLM's to another has to be plain.
        """
        kept, self._kept = self._kept, {}
        found = []
        for layer, parts in kept.items():
            rows = torch.cat([rows for _, rows in parts]).cpu().contiguous()
            names = [name for names, _ in parts for name in names]
            found.append(
                (layer, names, str(rows.dtype).removeprefix("torch."), rows.view(torch.uint8).numpy().tobytes())
            )
        return found

    def _find_rows(self, *_: Any) -> None:
        """Which rows of this pass are the last token of a prompt."""
        batch = self.model_runner.input_batch
        count = batch.num_reqs
        starts = self.model_runner.query_start_loc.np[: count + 1]
        read = batch.num_computed_tokens_cpu[:count] + starts[1:] - starts[:-1]
        whole = (read == batch.num_prompt_tokens[:count]).nonzero()[0].tolist()
        self._rows = [batch.req_ids[i] for i in whole], torch.tensor([int(starts[i + 1]) - 1 for i in whole])

    def _keep(self, layer: int, hidden: Tensor) -> None:
        names, rows = self._rows
        if names:
            self._kept.setdefault(layer, []).append((names, hidden.detach()[rows.to(hidden.device)].clone()))

    def _keep_embeddings(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(0, kwargs["hidden_states"] if "hidden_states" in kwargs else args[1])

    def _keep_block(self, layer: int) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self._keep(layer, output)
            else:
                hidden, residual = output[:2]
                names, rows = self._rows
                if names:
                    rows = rows.to(hidden.device)
                    state = hidden[rows] if residual is None else hidden[rows] + residual[rows]
                    self._kept.setdefault(layer, []).append((names, state))

        return hook


def _blocks(model: nn.Module, num_layers: int) -> nn.ModuleList:
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    if not found:
        raise RuntimeError(f"Expected a list of {num_layers} decoder blocks in {type(model).__name__}, but found none")
    return found[0]
