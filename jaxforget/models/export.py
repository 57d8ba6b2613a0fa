"""Parameters written to a folder that `transformers` loads, one tensor at a time."""

import collections
import dataclasses
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, write_json, write_text
from jaxforget.models.config import ModelConfig
from jaxforget.models.layout import Leaf, leaves
from jaxforget.models.load import INDEX, float_dtype
from jaxforget.models.safetensors_io import TILE, copy_cast, write_file
from jaxforget.processes import fetch, wait_for_all

# Licences too: those of the Llama models require that they accompany derived models.
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")
TOKENIZER_FILES += ("additional_chat_templates/*.jinja",)
CARD = "README.md"
LICENCE_FILES = ("LICENSE*", "USE_POLICY*", "NOTICE*")
AHEAD = 256 << 20  # bytes of tensors that threads make while the one before them is written
CHUNK = 4 << 20  # bytes that a thread makes at once


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Return the `config.json` of a model without an original; `ModelConfig.from_hf` reads it back."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            rope |= {name: getattr(scaling, name) for name in names}
    if config.family != "llama":
        raise ValueError(f"a {config.family} is saved with the config.json that it was loaded with")
    eos = config.eos_token_id
    kept = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "max_position_embeddings",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "bos_token_id",
    )
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **{name: getattr(config, name) for name in kept},
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        # Both spellings, for transformers 5 and for earlier versions.
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
    }


def save_params(
    folder: str | Path,
    params: dict[str, Any],
    config: ModelConfig,
    raw_config: dict[str, Any] | None,
    tokenizer_source: Any,
    *,
    dtype: Any,
    max_shard_bytes: int = 5_000_000_000,
    model_card: str,
) -> None:
    """Write `folder` whole or not at all: safetensors, config, generation config, tokenizer and model card.

    Every process of a run calls this; the first one writes, and all return when the folder is complete.

    Args:
      folder: replaced if it exists.
      params: the tree of `models.transformer.Transformer`, sharded in any way. One tensor at a time comes to the
        host, or `AHEAD` bytes of small ones.
      config: the model's shape.
      raw_config: the original's `config.json`, kept but for the dtype; None for a model made here.
      tokenizer_source: folder of the original (its tokenizer, generation config and licence are copied), a
        `transformers` tokenizer, or None.
      dtype: stored: float32, bfloat16 or float16.
      max_shard_bytes: a file holds at most this, or a single larger tensor.
      model_card: Markdown of the `README.md`.

    Raises:
      UserError: the folder cannot be written, or `tokenizer_source` is no folder.
    """
    dtype = float_dtype(dtype)
    if isinstance(tokenizer_source, str | Path) and not Path(tokenizer_source).is_dir():
        raise UserError(f"{tokenizer_source}: no such folder to take the tokenizer from; give the original model's")
    raw = config_to_hf(config) if raw_config is None else dict(raw_config)
    # The end tokens may be those of generation_config.json, which config.json need not repeat.
    if dataclasses.replace(ModelConfig.from_hf(raw), eos_token_id=config.eos_token_id) != config:
        raise ValueError("raw_config describes another model than config")
    flat = traverse_util.flatten_dict(params, sep="/")
    for leaf in leaves(config):
        if leaf.name not in flat or flat[leaf.name].shape != leaf.shape:
            raise ValueError(f"parameter {leaf.name} must be {leaf.shape}")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        tensors = _to_host(flat, config, dtype, pool)
        if jax.process_index() == 0:
            write_model(folder, tensors, config, raw, tokenizer_source, dtype, max_shard_bytes, model_card)
        else:
            for _ in tensors:
                pass
    wait_for_all(f"model {folder}")


def write_model(
    folder: str | Path,
    tensors: Iterator[np.ndarray],
    config: ModelConfig,
    raw_config: dict[str, Any],
    tokenizer_source: Any,
    dtype: np.dtype,
    max_shard_bytes: int,
    model_card: str,
) -> None:
    """Write the folder of `save_params` from a stream of tensors, so that the model need not exist in memory.

    Args:
      tensors: yields the tensors of `export_order` as they are stored: all of `dtype`, matrices [out, in].

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        with atomic_folder(folder) as partial:
            shapes = {name: parts[0].stored_shape for name, parts, _ in export_order(config)}
            _write_weights(partial, shapes, tensors, dtype, max_shard_bytes)
            write_companion_files(partial, raw_config, config, tokenizer_source, dtype)
            write_text(partial / CARD, model_card)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot be written: {reason}; free space or name another folder") from None


def export_order(config: ModelConfig) -> Iterator[tuple[str, tuple[Leaf, ...], int | None]]:
    """Yield (Hugging Face name, parameters in it, layer) of every tensor, layer by layer: a file holds whole layers.

    A fused tensor holds several parameters, one after the other along its first axis.
    """
    table = leaves(config)
    single = [(leaf.template, (leaf,), None) for leaf in table if not leaf.stacked]
    fused: dict[str, tuple[Leaf, ...]] = {}
    for leaf in table:
        if leaf.stacked:
            fused[leaf.template] = (*fused.get(leaf.template, ()), leaf)
    yield from single[:1]  # the embedding first, the last norm and the head last
    for layer in range(config.num_hidden_layers):
        for template, parts in fused.items():
            yield template.format(layer), parts, layer
    yield from single[1:]


def _to_host(
    flat: dict[str, jax.Array], config: ModelConfig, dtype: np.dtype, pool: ThreadPoolExecutor
) -> Iterator[np.ndarray | None]:
    """Yield the tensors of `export_order` as they are stored, gathered from their devices.

    On a process that does not write, None is yielded for each tensor that it only helps to gather. Threads cast and
    transpose tensors ahead of the one that is written, so that writing does not wait for them.
    """
    making: collections.deque[tuple[np.ndarray | None, list[Future[None]]]] = collections.deque()
    held = 0
    for _, parts, layer in export_order(config):
        size = math.prod(parts[0].stored_shape) * dtype.itemsize
        # At least one tensor is prepared ahead, however large, or writing and preparing would not overlap.
        while len(making) > 1 and held + size > AHEAD:
            done = _made(*making.popleft())
            held -= 0 if done is None else done.nbytes
            yield done
            del done  # otherwise it would stay in memory beside the next ones
        making.append(_make(flat, parts, layer, dtype, pool))
        held += 0 if making[-1][0] is None else size
    while making:
        yield _made(*making.popleft())


def _made(out: np.ndarray | None, jobs: list[Future[None]]) -> np.ndarray | None:
    for job in jobs:
        job.result()  # a thread's failure is raised here
    return out


def _make(
    flat: dict[str, jax.Array], parts: tuple[Leaf, ...], layer: int | None, dtype: np.dtype, pool: ThreadPoolExecutor
) -> tuple[np.ndarray | None, list[Future[None]]]:
    """Return one tensor, not yet filled, and the threads' jobs that fill it; None on a process that does not write."""
    out = np.empty(parts[0].stored_shape, dtype) if jax.process_index() == 0 else None
    jobs = []
    for leaf in parts:
        array = flat[leaf.name]
        if array.is_fully_addressable:
            if out is not None:
                jobs += _copy_shards(out[leaf.rows], array, leaf.transposed, layer, pool)
            continue
        # By all processes in one order, and so not by threads.
        gathered = fetch(array if layer is None else _layer_of(array, layer))
        if out is not None:
            jobs += _fill(out[leaf.rows], gathered, leaf.transposed, pool)
    return out, jobs


def _copy_shards(
    out: np.ndarray, array: jax.Array, transposed: bool, layer: int | None, pool: ThreadPoolExecutor
) -> list[Future[None]]:
    """Return jobs that copy `array`, or one layer of it, from its devices into `out`."""
    target = out.T if transposed else out
    pieces = {str(shard.index): shard for shard in array.addressable_shards}  # replicas once
    jobs = []
    for shard in pieces.values():
        index, data = shard.index, shard.data
        if layer is not None:
            start, stop, _ = index[0].indices(array.shape[0])
            if not start <= layer < stop:
                continue
            # Data on the host is viewed; of data elsewhere, only the layer is copied to the host.
            index = index[1:]
            data = np.asarray(data)[layer - start] if _on_host(data) else _layer_of(data, layer - start)
        piece = target[index]
        jobs += _fill(piece.T if transposed else piece, np.asarray(data), transposed, pool)
    return jobs


def _fill(out: np.ndarray, source: np.ndarray, transposed: bool, pool: ThreadPoolExecutor) -> list[Future[None]]:
    """Submit jobs that fill runs of rows of `out`, whole tiles where it is transposed."""
    step = max(1, CHUNK * out.shape[0] // max(1, out.nbytes))
    step = -(-step // TILE) * TILE if transposed else step
    jobs = []
    for start in range(0, out.shape[0], step):
        rows = slice(start, start + step)
        part = source[:, rows] if transposed else source[rows]
        jobs.append(pool.submit(copy_cast, out[rows], part, transpose=transposed))
    return jobs


def _on_host(data: jax.Array) -> bool:
    return all(device.platform == "cpu" for device in data.devices())


@jax.jit
def _layer_of(stacked: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)


def _write_weights(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    tensors: Iterator[np.ndarray],
    dtype: np.dtype,
    limit: int,
) -> None:
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    if len(shards) == 1:
        write_file(folder / "model.safetensors", dtype, shapes, tensors)
        return
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        write_file(folder / file, dtype, {name: shapes[name] for name in names}, (next(tensors) for _ in names))
    write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})


def write_companion_files(
    folder: Path, raw: dict[str, Any], config: ModelConfig, tokenizer_source: Any, dtype: np.dtype
) -> None:
    """Write `config.json`, `generation_config.json`, the tokenizer's files and the licence."""
    spellings = [key for key in ("dtype", "torch_dtype") if key in raw] or ["torch_dtype"]
    write_json(folder / "config.json", raw | dict.fromkeys(spellings, dtype.name))
    eos = list(config.eos_token_id) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    generation = {"bos_token_id": config.bos_token_id, "eos_token_id": eos}
    write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})
    if tokenizer_source is None:
        return
    if not isinstance(tokenizer_source, str | Path):
        tokenizer_source.save_pretrained(str(folder))
        return
    for pattern in (*TOKENIZER_FILES, *LICENCE_FILES, "generation_config.json"):
        for path in Path(tokenizer_source).glob(pattern):
            if path.is_file():
                target = folder / path.relative_to(tokenizer_source)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
