"""The lock, the scripts, and which way imports run."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["requirements.lock", "requirements-test.lock"]
SCRIPTS = [
    "scripts/demo",
    "scripts/novel",
    "scripts/test",
    "scripts/lock",
    "scripts/tpu_vm",
    "scripts/tpu_vm_checks.sh",
    "scripts/environment.sh",
    ".ci/run",
]

# A room may import rooms of a lower rank, and itself; rooms of one rank are strangers.
RANKS = [
    {"errors", "cpu", "interrupts", "output_projection"},
    {"files", "config", "processes", "sharding"},
    {"endpoint"},
    {"models", "corpus"},
    {"train", "manifest", "start"},
    {"lm"},
    {"evals", "anchors"},
    {"report"},
    {"stages"},
    # What is planned is what the stages build, so the plan stands on them.
    {"pipeline", "tpu"},
    {"api", "dry_run"},
    {"demo"},
    # Other seeds of the toy world are made as the demo makes them.
    {"compare"},
    {"cli"},
    {"__init__", "__main__"},
]
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def bare(requirement: str) -> str:
    """`etils[epath]>=1.12` -> `etils`."""
    return canonical(re.match(r"[A-Za-z0-9._-]+", requirement)[0])


def locked(*locks: str) -> dict[str, str]:
    lines = [line for lock in locks for line in (ROOT / lock).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def declared(*extras: str) -> set[str]:
    optional = PYPROJECT["project"]["optional-dependencies"]
    requirements = PYPROJECT["project"]["dependencies"] + [r for extra in extras for r in optional[extra]]
    return {bare(requirement) for requirement in requirements}


def sources() -> list[Path]:
    return sorted((ROOT / "jaxforget").rglob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    """Dotted names in a module's import statements, wherever they stand; relative ones are not used here."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write jaxforget.…"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(ROOT / "jaxforget").parts[0].removesuffix(".py")


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_holds_names_and_exact_versions_only(lock):
    lines = (ROOT / lock).read_text().splitlines()
    assert lines[0].startswith("#")
    wrong = [x for x in lines[1:] if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", x)]
    assert not wrong


def test_locks_cover_every_direct_dependency_and_no_package_twice():
    assert declared() <= set(locked("requirements.lock"))
    assert declared("test") <= set(locked(*LOCKS))
    assert not set(locked("requirements.lock")) & set(locked("requirements-test.lock"))


def test_torch_is_pinned_and_stays_out_of_the_runtime():
    assert "torch==2.13.0" in PYPROJECT["project"]["optional-dependencies"]["test"]
    assert locked("requirements-test.lock")["torch"] == "2.13.0"
    assert not {"torch", "tensorflow"} & set(locked("requirements.lock"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_sound_bash(script):
    path = ROOT / script
    subprocess.run(["bash", "-n", path], check=True)
    if path.suffix != ".sh":
        assert path.stat().st_mode & 0o111, f"{script} is not executable"
        assert path.read_text().startswith("#!/usr/bin/env bash\n")
        assert "set -euo pipefail" in path.read_text()


def test_a_machine_without_a_fit_python_gets_one_line(tmp_path):
    """With no usable interpreter on PATH, the script names the remedy and exits 1 without making anything."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ["bash", "dirname", "mkdir", "cat", "sha256sum", "env"]:
        found = subprocess.run(["bash", "-c", f"command -v {tool}"], capture_output=True, text=True, check=True)
        (tools / tool).symlink_to(found.stdout.strip())
    (tools / "python3").write_text("#!/usr/bin/env bash\nexit 1\n")
    (tools / "python3").chmod(0o755)
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ["pyproject.toml", *LOCKS, "scripts/demo", "scripts/environment.sh"]:
        (copy / name).write_bytes((ROOT / name).read_bytes())
    result = subprocess.run(
        ["bash", copy / "scripts/demo"], env={"PATH": str(tools)}, capture_output=True, text=True, cwd="/"
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no Python 3.11 or newer" in result.stderr
    assert not (copy / ".venv").exists()


def test_a_machine_without_a_browser_gets_one_line(tmp_path):
    """The tests' script looks for one; where it can install none, it says so and ends."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ["bash", "dirname", "mkdir", "id"]:
        found = subprocess.run(["bash", "-c", f"command -v {tool}"], capture_output=True, text=True, check=True)
        (tools / tool).symlink_to(found.stdout.strip())
    script = f"source {ROOT}/scripts/environment.sh; browser"
    missing = subprocess.run(["bash", "-c", script], env={"PATH": str(tools)}, capture_output=True, text=True)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "no chromium or chrome found" in missing.stderr
    (tools / "chromium").symlink_to("/bin/true")
    subprocess.run(["bash", "-c", script], env={"PATH": str(tools)}, check=True)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = room(path)
    assert here in RANK, f"{here}: give the new room a place in RANKS"
    for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        first, *rest = name.split(".")
        if first == "jaxforget" and rest and rest[0] in RANK and rest[0] != here:
            assert RANK[rest[0]] < RANK[here], f"{here} imports {name}"
            assert (here, rest[0]) != ("train", "models"), "train gets a forward function, not the models"


def test_every_package_imported_is_declared_and_none_is_a_rival_framework():
    distributions = packages_distributions()
    for path in sources():
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            first = name.split(".")[0]
            if first == "jaxforget" or first in sys.stdlib_module_names:
                continue
            assert first not in {"torch", "tensorflow"}, f"{path}: imports {name}"
            owners = {canonical(owner) for owner in distributions.get(first, [first])}
            found = owners & declared("eval", "png", "tpu", "wandb")
            assert found, f"{path}: imports {name}, which pyproject.toml does not declare"
