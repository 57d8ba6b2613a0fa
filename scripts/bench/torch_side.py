"""The PyTorch side of bench_step.py: a WHP step as one would write it today from the paper and `transformers`."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from jaxforget.errors import UserError


class TorchSide:
    """Three models, AdamW, full logits.

    Args:
      base, reinforced: folders, or None for random weights made on the device in `config`'s shape.
      config: a transformers configuration as a dict.
      batch: numpy arrays of `jaxforget.train.step`'s batch.
      alpha: of equation 1.
      adamw: its options, as torch calls them.
    """

    def __init__(
        self,
        base: Path | None,
        reinforced: Path | None,
        config: dict[str, Any],
        batch: dict[str, np.ndarray],
        *,
        device: str,
        alpha: float,
        adamw: dict[str, Any],
        checkpointing: bool,
        threads: int | None,
    ):
        if device == "gpu" and not torch.cuda.is_available():
            raise UserError("torch finds no GPU: install a build of it that has CUDA, or give --device cpu")
        if threads is not None:
            torch.set_num_threads(threads)
        self.alpha = alpha
        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        self.dtype = torch.bfloat16 if device == "gpu" else torch.float32
        self.student, self.base = (self._model(base, config) for _ in range(2))
        self.reinforced = self._model(reinforced, config)
        for frozen in (self.base, self.reinforced):
            frozen.requires_grad_(False).eval()
        self.student.train()
        if checkpointing:
            self.student.gradient_checkpointing_enable()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), **adamw)
        self.batch = {
            name: torch.from_numpy(value).to(self.device, torch.long if value.dtype == np.int32 else None)
            for name, value in batch.items()
        }

    def _model(self, folder: Path | None, config: dict[str, Any]) -> LlamaForCausalLM:
        if folder is not None:
            return LlamaForCausalLM.from_pretrained(folder, dtype=self.dtype).to(self.device)
        with torch.device(self.device):
            torch.set_default_dtype(self.dtype)
            return LlamaForCausalLM(LlamaConfig(**config))

    @torch.no_grad()
    def labels(self) -> torch.Tensor:
        """Return equation 1's labels, [B, S]; -100 at untrained positions."""
        batch = self.batch
        v_base = self.base(input_ids=batch["translated"], use_cache=False).logits
        mean = v_base.mean(-1)
        for row in range(len(v_base)):
            for word, start in zip(batch["suppress_ids"][row], batch["suppress_from"][row], strict=True):
                if word >= 0:
                    v_base[row, start + 1 :, word] = mean[row, start + 1 :]
        index = batch["position_map"].clamp(min=0)
        v_base = v_base.gather(1, index[:, :, None].expand(-1, -1, v_base.shape[-1]))
        v_reinforced = self.reinforced(input_ids=batch["tokens"], use_cache=False).logits
        v_generic = v_base - self.alpha * F.relu(v_reinforced - v_base)
        return v_generic.argmax(-1).masked_fill(batch["position_map"] < 0, -100)

    def step(self) -> float:
        """Run a step and return its loss."""
        labels = self.labels()
        logits = self.student(input_ids=self.batch["tokens"], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def timed(self) -> tuple[float, float]:
        """Run a step and return (seconds, loss)."""
        start = time.perf_counter()
        loss = self.step()  # its .item() waits for the loss; the line below waits for the update
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, loss

    def held(self) -> int:
        """Return the bytes of all weights and of the optimiser's state on the device."""
        models = [p for model in (self.student, self.base, self.reinforced) for p in model.parameters()]
        moments = [x for state in self.optimizer.state.values() for x in state.values() if torch.is_tensor(x)]
        return sum(x.numel() * x.element_size() for x in models + moments)

    def device_peak(self) -> int | None:
        """Return the peak of allocated bytes on the device; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None
