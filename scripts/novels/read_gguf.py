"""Read a GGUF file: `read_gguf.py MODEL.gguf FOLDER` writes the weights as float32 .npy files and the fields as JSON.

It runs in an environment of its own, because the package gguf is not one of jaxforget's dependencies.
"""

import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def main(model: str, folder: str) -> None:
    """Write FOLDER/NAME.npy for each tensor and FOLDER/fields.json."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    reader = GGUFReader(model)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        # GGUF names the fastest axis first.
        np.save(out / f"{tensor.name}.npy", values.reshape(tuple(int(size) for size in tensor.shape[::-1])))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    (out / "fields.json").write_text(json.dumps(fields), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
