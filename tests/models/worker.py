"""One process of two, each with four devices: loads its half of a model, saves it, generates.

python -m tests.models.worker PROCESS PORT SOURCE TARGET; prints what it found as a line of JSON.
"""

import json
import sys
from pathlib import Path

import jax

from jaxforget import sharding
from jaxforget.lm.generate import generate
from jaxforget.models.export import save_params
from jaxforget.models.folders import read_config
from jaxforget.models.load import Checkpoint, load_params
from jaxforget.models.transformer import Transformer
from tests.models.placing import shardings_of

PROMPTS = [list(range(3, 12)), [3, 4]]
NEW = 6


def main(process: int, port: str, source: Path, target: Path) -> None:
    """Runs the process; see the module."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    read = []
    original = Checkpoint.read_into

    def read_into(self, out, *rest):
        read.append(out.nbytes)
        original(self, out, *rest)

    Checkpoint.read_into = read_into
    config, raw = read_config(source)
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    params = load_params(source, config, dtype="float32", shardings=shardings_of(config, mesh))
    save_params(target, params, config, raw, None, dtype="float32", model_card="", max_shard_bytes=100_000)
    model = Transformer(config, constrain=sharding.ActivationSharding(mesh))
    made = generate(model, params, PROMPTS, max_new_tokens=NEW, mesh=mesh)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    # save_params returns, on every process, only when the folder is there.
    found = {"share": sum(read) / total, "made": made, "written": (target / "config.json").exists()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
