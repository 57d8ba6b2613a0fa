# Sourced by the other scripts: find a Python, make .venv, and install the locked versions.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV="$ROOT/.venv"
# The user's own Python settings must not affect the pinned environment.
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() {
  echo "jaxforget: $1" >&2
  exit 1
}

# Set PYTHON to the first interpreter of version 3.11 or newer that can make a virtual environment.
find_python() {
  local name bare=""
  for name in ${JAXFORGET_PYTHON:+"$JAXFORGET_PYTHON"} python3 python3.11 python3.12 python3.13 python3.14 python; do
    # A name can exist and not run (a version manager's placeholder), so run it.
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    PYTHON=$name
    if "$name" -c 'import ensurepip, venv' >/dev/null 2>&1; then return; fi
    bare=$name
  done
  if [ -n "$bare" ]; then
    fail "$bare lacks the venv module; install it (Debian, Ubuntu: apt-get install python3-venv) and run this again"
  fi
  fail "no Python 3.11 or newer found; install one, or name it: JAXFORGET_PYTHON=/path/to/python3.12 $0"
}

# Inputs of an install. The folder is one of them: an environment that was moved has paths to its old place.
inputs() {
  (cd "$ROOT" && echo "$1 $ROOT" && cat pyproject.toml requirements.lock && if [ "$1" = test ]; then cat requirements-test.lock; fi) |
    sha256sum
}

installed() {
  [ -x "$VENV/bin/python" ] && [ -e "$VENV/.installed-$1" ] && [ "$(cat "$VENV/.installed-$1")" = "$(inputs "$1")" ]
}

unpacked() { (cd "$VENV" && ls -d lib/*/site-packages/*) | cksum; }

pip_install() {
  (cd "$ROOT" && "$VENV/bin/python" -m pip install -qq "$@")
}

install_runtime() { pip_install -r requirements.lock && pip_install --no-deps -e .; }
install_test() { pip_install -r requirements.lock -r requirements-test.lock; }

# install runtime|test: does nothing if its stamp shows the same inputs.
install() {
  local before
  if installed "$1"; then return; fi
  # A kill while pip unpacks can leave half a package that pip later takes for complete, so start over (pip's cache
  # still has the downloads). Start over as well if the interpreter of .venv is gone.
  if [ -e "$VENV/.unpacking" ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    "$PYTHON" -m venv --clear "$VENV" || fail "$PYTHON could not make .venv; fix what it says above and run this again"
  fi
  echo "jaxforget: installing the pinned $1 packages into .venv (takes minutes the first time)" >&2
  rm -f "$VENV/.installed-$1"
  before=$(unpacked)
  touch "$VENV/.unpacking"
  if ! "install_$1"; then
    # Nothing was unpacked (no network, no such version), so the environment is still sound.
    if [ "$before" = "$(unpacked)" ]; then rm -f "$VENV/.unpacking"; fi
    fail "installing the $1 packages failed; fix what pip says above and run this again"
  fi
  rm -f "$VENV/.unpacking"
  # The stamp comes last, so that an interrupted install never looks finished.
  inputs "$1" >"$VENV/.installed-$1"
}

# environment runtime|test: make .venv ready; needs neither network nor time if it is ready already.
environment() {
  mkdir -p "$ROOT/.cache"
  # One install at a time, if flock exists (on every ordinary Linux).
  exec 9>"$ROOT/.cache/environment.lock"
  if command -v flock >/dev/null; then flock 9; fi
  install runtime
  if [ "$1" = test ]; then install test; fi
  exec 9>&-
}

# Find a headless browser for the tests of the review page, or install one if this can be done without a question.
browser() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    if command -v "$name" >/dev/null; then return; fi
  done
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "jaxforget: installing chromium, which the tests of the review page drive" >&2
    if { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; } \
      >"$ROOT/.cache/chromium.log" 2>&1 && command -v chromium >/dev/null; then return; fi
    fail "chromium could not be installed (.cache/chromium.log says why); install it and run this again"
  fi
  fail "no chromium or chrome found, which the tests of the review page drive; install one and run this again"
}
