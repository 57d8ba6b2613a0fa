"""The command line of scripts/novel."""

import argparse
import sys
from pathlib import Path

from jaxforget.cli.faults import users_fault
from jaxforget.errors import Preempted
from jaxforget.start import start_jax

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "novel"
LAST = ("base", "control", "dictionary", "recommended")


def main(words: list[str] | None = None) -> int:
    """Run the command; return its exit status, 2 for a mistake of the user."""
    parser = argparse.ArgumentParser("scripts/novel", description=(__doc__ or "") + " See configs/novel/README.md.")
    parser.add_argument("--out", type=Path, default=Path("runs/novel"), help="folder of everything [runs/novel]")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder of your own instead of the one fetched")
    parser.add_argument("--texts", type=Path, help="a folder with your own emma.txt, persuasion.txt, …; none fetched")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of the configuration [configs/novel]")
    parser.add_argument("--full", action="store_true", help="take whole books: for a GPU or TPU")
    parser.add_argument("--only", choices=LAST, help="stop after this stage")
    given = parser.parse_args(words)
    try:
        start_jax()
        from novels.chain import run_novel

        run_novel(given.out, given.configs, model=given.model, texts=given.texts, full=given.full, last=given.only)
    except Preempted as stopped:
        print(f"scripts/novel: {stopped}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("scripts/novel: interrupted; run the same command to continue", file=sys.stderr)
        return 130
    except Exception as error:
        if (line := users_fault(error, str(given.out))) is None:
            raise
        print(f"scripts/novel: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
