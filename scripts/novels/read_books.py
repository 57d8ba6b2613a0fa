"""Read the novels of the R package janeaustenr: `read_books.py DATA FOLDER` writes one .txt file a novel.

DATA is the package's folder `data`, with the lazy-load data base Rdata.rdb and its index Rdata.rdx. It runs in an
environment of its own, because the package rdata is not one of jaxforget's dependencies.
"""

import sys
import warnings
import zlib
from pathlib import Path

import rdata

LENGTH_BYTES = 4  # each entry begins with its uncompressed length


def main(data: str, folder: str) -> None:
    """Write FOLDER/NOVEL.txt for each novel in DATA."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    entries = (Path(data) / "Rdata.rdb").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the index names no file type, which rdata reports
        index = rdata.read_rds(Path(data) / "Rdata.rdx")["variables"]
    for novel, (start, size) in index.items():
        packed = entries[int(start) + LENGTH_BYTES : int(start) + int(size)]
        lines = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(packed)))
        (out / f"{novel}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
