"""The presets of configs/gpu: what their steps hold, by the shapes of the steps' own arguments, fits their cards."""

import math
from pathlib import Path

import jax
import pytest

from jaxforget.config import load_config, options
from jaxforget.models.published import read_shape
from jaxforget.sharding import make_mesh
from jaxforget.start import _GPU_SHARE
from jaxforget.tpu.programs import batch_widths, training_program
from jaxforget.train.precision import compute_params

FOLDER = Path(__file__).parents[2] / "configs" / "gpu"
GIB = 2**30
RESERVE = 3.0  # GiB for a layer's temporaries, a tile of logits, and libraries
CARDS = {"llama2_7b_h200": 140.4, "llama2_7b_h100": 79.6, "tinyllama_1b_24gb": 24.0}  # GiB, as nvidia-smi shows them
# What the README's tables say: state, frozen, gradients, kept activations of the forget step.
TABLE = {
    "llama2_7b_h200": (50.2, 25.1, 37.7, 6.0),
    "llama2_7b_h100": (50.2, 0.0, 12.6, 4.0),
    "tinyllama_1b_24gb": (8.2, 4.1, 6.1, 0.7),
}


def size(tree) -> float:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / GIB


def held(name: str, stage: str) -> tuple[float, float, float, float]:
    """GiB of state, frozen models, gradients and activations kept for the backward pass."""
    config = load_config(FOLDER / f"{name}.yaml")
    shape, _ = read_shape(config.model.folder)
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    _, arguments = training_program(config, shape, mesh, batch_widths(config), stage)
    state, *frozen = [tree for tree in arguments if not (isinstance(tree, dict) and "tokens" in tree)]
    trained, given = compute_params(state.params), getattr(config, stage)
    gradients = size(trained)
    if given.accumulate > 1:
        gradients += sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(trained)) / GIB
    queries, keys = (heads * shape.head_dim for heads in (shape.num_attention_heads, shape.num_key_value_heads))
    width = shape.hidden_size  # the layer's input; below, what `mlp` keeps: q, k, v, attention's result, o
    width += {"full": 0, "mlp": 2 * queries + 2 * keys + shape.hidden_size}[config.model.remat]
    rows = given.batch // given.accumulate
    activations = rows * config.blocks.length * width * 2 * shape.num_hidden_layers / GIB
    return size(state), size(frozen), gradients, activations


@pytest.mark.parametrize("name", CARDS)
def test_both_training_steps_fit_the_card(name):
    for stage in ("reinforce", "forget"):
        assert sum(held(name, stage)) + RESERVE < CARDS[name] * float(_GPU_SHARE), stage


@pytest.mark.parametrize("name", TABLE)
def test_the_readme_has_these_figures(name):
    found = held(name, "forget")
    assert found == pytest.approx(TABLE[name], abs=0.06)
    rows = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| **")]
    card = {"llama2_7b_h200": "H200", "llama2_7b_h100": "H100", "tinyllama_1b_24gb": "24 GB"}[name]
    [row] = [line for line in rows if f"**{card} preset**" in line]
    cells = [float(cell) for cell in row.split("|")[2:-1]]
    assert cells[:-1] == pytest.approx(TABLE[name], abs=0.01)
    assert cells[-1] == pytest.approx(sum(TABLE[name]), abs=0.11)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_keep_the_recipe_and_the_number_of_blocks(path):
    assert path.stem in CARDS
    base = "whp_tinyllama_1b" if path.stem.startswith("tiny") else "whp_llama2_7b"
    recipe, changed = load_config(FOLDER.parent / f"{base}.yaml"), load_config(path)
    allowed = {"out", "model.remat", "targets.cache", "evals.every", "checkpoints.every", "forget.max_steps"}
    for stage in ("reinforce", "forget"):
        allowed |= {f"{stage}.{name}" for name in ("batch", "accumulate", "moment_dtype")}

    def value(config, name):
        for part in name.split("."):
            config = getattr(config, part)
        return config

    assert {name for name, _ in options() if value(recipe, name) != value(changed, name)} <= allowed
    assert changed.forget.max_steps * changed.forget.batch == recipe.forget.max_steps * recipe.forget.batch
