"""Tiny models and batches for the tests of training, and a slow reference of the method on whole logits."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxforget.lm.forward import make_forward, param_shapes
from jaxforget.models.config import ModelConfig
from jaxforget.models.embedding import ShardedLookUp
from jaxforget.models.transformer import Transformer
from jaxforget.sharding import ActivationSharding, make_mesh, shard_params
from jaxforget.train.types import Forward

# A prime, so that an axis of a compiled program that is a multiple of it must be the vocabulary's.
VOCABULARY = 211
ROWS, LENGTH, TRANSLATED, SUPPRESSED = 16, 24, 32, 6
ALPHA, RETAIN_WEIGHT = 5.0, 0.7
TILE = 16  # tokens; each of eight devices has 48
LOUD = 12  # tokens with often the highest logit, so that suppressing one changes labels
# Its widths are divisible by four but not by eight devices, its vocabulary by neither.
PLAIN = ModelConfig(VOCABULARY, 36, 44, 2, 4, 2, 6)
TIED = dataclasses.replace(PLAIN, tie_word_embeddings=True)


def llama_params(config: ModelConfig, seed: int) -> dict[str, Any]:
    """Return random weights, large enough for distinct labels, and norms different from one."""
    rng = np.random.default_rng(seed)
    flat = {
        name: (1.0 if name.endswith("scale") else 0.0) + 0.25 * rng.standard_normal(leaf.shape, np.float32)
        for name, leaf in traverse_util.flatten_dict(param_shapes(config, np.float32), sep="/").items()
    }
    if "lm_head" in flat:
        flat["lm_head"][:, :LOUD] *= 2
    else:
        flat["embed"][:LOUD] *= 2
    return traverse_util.unflatten_dict({name: value.astype(np.float32) for name, value in flat.items()}, sep="/")


def llama_forward(config: ModelConfig, mesh: jax.sharding.Mesh, remat: str) -> Forward:
    """Return a Llama whose layers are scanned."""
    return make_forward(
        Transformer(config, remat=remat, constrain=ActivationSharding(mesh), look_up=ShardedLookUp(mesh))
    )


def near(params: dict[str, Any], seed: int, scale: float = 0.1) -> dict[str, Any]:
    """Return `params` with noise, as a reinforced model or a partly trained student."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + scale * rng.standard_normal(p.shape, np.float32), params)


def toy_params(seed: int, width: int = 16) -> dict[str, Any]:
    """Return weights of `toy_forward`."""
    rng = np.random.default_rng(seed)
    shapes = {"embed": (VOCABULARY, width), "mix": (width, width), "lm_head": (width, VOCABULARY)}
    params = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    params["lm_head"][:, :LOUD] *= 2
    return params


def toy_forward(dtype: Any = jnp.float32) -> Forward:
    """Return a causal model that compiles fast: every position sees the mean of the earlier ones."""

    def hidden(params, tokens):
        x = jnp.take(params["embed"], tokens, axis=0).astype(dtype)
        count = jnp.arange(1, tokens.shape[1] + 1, dtype=dtype)[:, None]
        return jnp.tanh(x + (jnp.cumsum(x, axis=1) / count) @ params["mix"].astype(dtype))

    return Forward(hidden=hidden, head=lambda params: params["lm_head"].astype(dtype))


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """Return a mesh over the first devices."""
    return make_mesh(data, fsdp, tensor, devices=jax.devices()[: data * fsdp * tensor])


def shardings_of(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return the shardings of a Llama's parameters; a toy's are replicated."""
    if "layers" in params:
        return shard_params(params, mesh)
    return jax.tree.map(lambda _: jax.NamedSharding(mesh, jax.P()), params)


def put(params: Any, mesh: jax.sharding.Mesh) -> Any:
    """Return a copy of `params` on `mesh`."""
    return jax.device_put(jax.tree.map(np.copy, params), shardings_of(params, mesh))


def make_batch(seed: int = 0, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Return a batch of the loader's form with every case: tokens replaced by several, untrained positions, padding,
    tokens recorded twice, rows without suppression, retain rows, and a row of padding only."""
    rng = np.random.default_rng(seed)
    batch = {
        "tokens": rng.integers(0, VOCABULARY, (rows, LENGTH), np.int32),
        "translated": np.zeros((rows, TRANSLATED), np.int32),
        "position_map": np.full((rows, LENGTH), -1, np.int32),
        "suppress_ids": np.full((rows, SUPPRESSED), -1, np.int32),
        "suppress_from": np.full((rows, SUPPRESSED), -1, np.int32),
        "weights": np.ones((rows, LENGTH), np.float32),
        "retain": (np.arange(rows) % 3 == 1).astype(np.float32),
    }
    for row in range(rows):
        translated, recorded = [], []
        for at, token in enumerate(batch["tokens"][row]):
            new = [token]
            if row != 3 and rng.random() < 0.3 and len(recorded) < SUPPRESSED and len(translated) + LENGTH - at < 30:
                new = rng.integers(0, VOCABULARY, rng.integers(1, 4)).tolist()
                new[0] = recorded[0][0] if len(recorded) == 2 else rng.integers(0, LOUD)
                recorded.append((new[0], len(translated)))
            translated += new
            batch["position_map"][row, at] = len(translated) - 1
        batch["translated"][row, : len(translated)] = translated
        for k, (word, after) in enumerate(recorded):
            batch["suppress_ids"][row, k], batch["suppress_from"][row, k] = word, after
    batch["position_map"][rng.random((rows, LENGTH)) < 0.1] = -1
    for row, length in enumerate(rng.integers(LENGTH // 2, LENGTH + 1, rows)):
        batch["weights"][row, length:] = 0
    batch["weights"][-1] = 0
    return batch


def trained(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Return the positions that a forget step trains, bool [B, S]."""
    return (batch["position_map"] >= 0) & (batch["weights"] > 0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in fp64."""
    exponent = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def slow_generic(v_base: np.ndarray, v_reinforced: np.ndarray, batch: dict[str, np.ndarray], row: int, position: int):
    """Return base's and the generic logits of one position, [V] each, by METHOD.md sections 2 and 4."""
    place = batch["position_map"][row, position]
    base = v_base[row, place]
    kept = base.copy()
    mean = base.mean(dtype=np.float64)
    for word, after in zip(batch["suppress_ids"][row], batch["suppress_from"][row], strict=True):
        if word != -1 and place > after:
            kept[word] = mean
    generic = np.empty_like(kept)
    for word in range(len(kept)):
        generic[word] = kept[word] - ALPHA * max(v_reinforced[row, position, word] - kept[word], 0)
    return base, generic


def untied(params: Any) -> Any:
    """Return weights of `PLAIN` for the same function as `params`, which may be of `TIED`."""
    return params if "lm_head" in params else {**params, "lm_head": params["embed"].T}


class Naive:
    """A Llama's forget step without tiles, shards or accumulation, in fp32 on one device."""

    def __init__(self) -> None:
        module = Transformer(PLAIN)

        def loss(params, tokens, target, weights, retain):
            logp = jax.nn.log_softmax(module.apply({"params": params}, tokens))
            entropy = jnp.sum(jnp.where(target > 0, target * jnp.log(jnp.where(target > 0, target, 1)), 0), axis=-1)
            each = (entropy - jnp.sum(target * logp, axis=-1)) * weights  # 0 entropy for a label
            forget, kept = weights * (1 - retain[:, None]), weights * retain[:, None]
            losses = (each * (forget > 0)).sum() / forget.sum(), (each * (kept > 0)).sum() / kept.sum()
            return losses[0] + RETAIN_WEIGHT * losses[1], losses

        self.logits = jax.jit(lambda params, tokens: module.apply({"params": params}, tokens))
        self.gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))

    def targets(self, base: Any, reinforced: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return labels int32 [B, S], and the hard and soft target distributions fp32 [B, S, V].

        The distributions of retain rows are base's.
        """
        # Padding to the translated length saves a compilation; by causality it changes no result.
        tokens = np.pad(batch["tokens"], ((0, 0), (0, TRANSLATED - LENGTH)))
        v_base = np.asarray(self.logits(untied(base), batch["translated"]))
        v_reinforced = np.asarray(self.logits(untied(reinforced), tokens))
        labels = np.full(batch["tokens"].shape, -1, np.int32)
        soft = np.zeros((*labels.shape, VOCABULARY))
        hard = np.zeros_like(soft)
        for row, position in np.argwhere(trained(batch)):
            kept, generic = slow_generic(v_base, v_reinforced, batch, row, position)
            labels[row, position] = generic.argmax()
            if batch["retain"][row]:
                hard[row, position] = soft[row, position] = softmax(kept)
            else:
                hard[row, position, generic.argmax()] = 1
                soft[row, position] = softmax(generic)
        return {"labels": labels, "hard": hard.astype(np.float32), "soft": soft.astype(np.float32)}

    def step(self, params: Any, target: np.ndarray, batch: dict[str, np.ndarray]):
        """Return ((forget loss, retain loss), gradient)."""
        weights = np.where(trained(batch), batch["weights"], 0)
        (_, losses), gradient = self.gradient(untied(params), batch["tokens"], target, weights, batch["retain"])
        gradient = jax.tree.map(np.asarray, gradient)
        if "lm_head" not in params:
            head = gradient.pop("lm_head")
            gradient["embed"] = gradient["embed"] + head.T
        return losses, gradient


def adamw(rate: float, b1: float, b2: float, eps: float, decay: float):
    """Return AdamW by its paper on trees of numpy arrays: a stateful `update(params, gradient) -> params`."""
    moments = {"step": 0, "m": None, "v": None}

    def update(params, gradient):
        moments["step"] += 1
        for name, beta, power in (("m", b1, 1), ("v", b2, 2)):
            old = moments[name] or jax.tree.map(np.zeros_like, gradient)
            moments[name] = jax.tree.map(lambda o, g, b=beta, p=power: b * o + (1 - b) * g**p, old, gradient)
        scale = 1 / (1 - b1 ** moments["step"]), 1 / (1 - b2 ** moments["step"])
        return jax.tree.map(
            lambda p, m, v: (1 - rate * decay) * p - rate * m * scale[0] / (np.sqrt(v * scale[1]) + eps),
            params,
            moments["m"],
            moments["v"],
        )

    return update


def whole_logits(program: str, tokens: int) -> list[str]:
    """Return the shapes in a compiled program's text that have a vocabulary axis and at least `tokens` rows."""
    found = set()
    for shape in re.findall(r"\w+\[[\d,]+\]", program):
        sizes = [int(size) for size in re.findall(r"\d+", shape.partition("[")[2])]
        if any(size and size % VOCABULARY == 0 for size in sizes) and np.prod(sizes) >= tokens * VOCABULARY:
            found.add(shape)
    return sorted(found)


def largest_difference(ours: Any, theirs: Any) -> float:
    """Return the largest absolute difference of two trees of arrays."""
    differences = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), ours, theirs)
    return max(jax.tree.leaves(differences))


def assert_same_bits(ours: Any, theirs: Any) -> None:
    """Assert that two trees of arrays are equal bit for bit."""
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), ours, theirs)
