# Sourced by tpu_vm: checks before anything is requested from the cloud, the names of TPU types, and the files to copy.
# shellcheck shell=bash

COMMANDS="demo run anchors prepare reinforce forget undo eval export report compare generate chat plan profile completion"

# Exit with a line and status 2 if COMMAND cannot work with the given options.
check() {
  local command=$1 variable
  [ -n "$NAME" ] || fail "$command needs a NAME; see --help"
  [[ $NAME =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    fail "$NAME: a NAME is small letters, digits and hyphens, 63 at most; a letter first, no hyphen last"
  [ -n "$ZONE" ] || fail "--zone (or TPU_ZONE) is not set; it names where the TPU is, as us-west4-a"
  [[ $EVERY =~ ^[0-9]+$ ]] || fail "--every $EVERY: give seconds"
  check_places "$command"
  check_type
  [ -z "$DISK" ] || [ -z "$NFS" ] || fail "--disk and --nfs: give one of the two"
  [ -z "$NFS" ] || [[ $NFS =~ ^[^/]+:/. ]] || fail "--nfs $NFS: give HOST:/SHARE, as 10.0.0.2:/share"
  for variable in ${VARIABLES[@]+"${VARIABLES[@]}"}; do
    # Do not print the text after =, which may be a secret.
    [[ $variable =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
      fail "--env ${variable%%=*}: give a variable's name alone; its value is taken from your environment"
    [ -n "$(printenv "$variable")" ] || fail "--env $variable: is not set here; export it"
  done
  case $command in run | keep) check_words ;; esac
  case $command in setup | keep) check_size ;; esac
  case $command in
    create | keep)
      runtime >/dev/null || exit 2
      [ -z "$DISK" ] || [ -n "$PROJECT" ] ||
        fail "--disk needs --project (or TPU_PROJECT), which is part of the disk's name"
      ;;
  esac
  [ "$command" != keep ] || [ -z "$SPOT" ] || [ -n "$DISK$NFS" ] ||
    fail "keep --spot: a preempted VM takes its own disk with it; give --disk or --nfs, which stay"
}

check_places() {
  case $1 in
    send) [ ${#PLACES[@]} = 3 ] || fail "send needs NAME LOCAL REMOTE" ;;
    fetch) [ ${#PLACES[@]} = 3 ] || fail "fetch needs NAME REMOTE LOCAL" ;;
    *) [ ${#PLACES[@]} = 1 ] || fail "${PLACES[1]}: not expected; words for jaxforget go behind --" ;;
  esac
  [ "$1" = send ] || return 0
  [ -e "${PLACES[1]}" ] || fail "send ${PLACES[1]}: no such file or folder here"
  # Some versions of scp expand other characters as a shell would, and some do not.
  [[ ${PLACES[2]} =~ ^[[:alnum:]._/][-[:alnum:]._/]*$ ]] ||
    fail "send to ${PLACES[2]}: give a place of letters, digits and . _ - / only"
}

# Sizes of slices that the cloud offers.
check_type() {
  local family=${TYPE%-*} size=${TYPE##*-} sizes
  case $family in
    v2) sizes="8 32 128 256 512" ;;
    v3) sizes="8 32 128 256 512 1024 2048" ;;
    v4 | v5p | tpu7x) sizes="8 16 32 64 and multiples of 128" ;;
    v5e | v5litepod | v6e) sizes="1 4 8 16 32 64 128 256" ;;
    *) fail "--type $TYPE: no such family; there are v2, v3, v4, v5e, v5p, v6e and tpu7x, as v5e-8" ;;
  esac
  [[ $size =~ ^[1-9][0-9]{0,4}$ ]] &&
    [[ " $sizes " == *" $size "* || ($sizes == *multiples* && $((size % 128)) = 0) ]] ||
    fail "--type $TYPE: no such size; of $family there are $sizes"
  [ -z "$DISK" ] || [ "$size" -le 8 ] ||
    fail "--disk: $TYPE has several hosts, of which only one could write to it; give --nfs HOST:/SHARE"
}

# gcloud's name of the type, and its software.
accelerator() { case $TYPE in v5e-*) echo "v5litepod-${TYPE#v5e-}" ;; *) echo "$TYPE" ;; esac }

runtime() {
  if [ -n "$RUNTIME" ]; then
    echo "$RUNTIME"
    return
  fi
  case $(accelerator) in
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) fail "--type $TYPE: which software it runs is not known here; name it with --runtime" ;;
  esac
}

# Check the words for jaxforget: its command, the place of its output, and files that the VM would lack.
check_words() {
  local word value out=""
  [ ${#WORDS[@]} -gt 0 ] || fail "name what to run behind --, as: -- run CONFIG out=/mnt/run/mine"
  [[ ${WORDS[0]} =~ ^(${COMMANDS// /|})$ ]] || fail "${WORDS[0]}: jaxforget has no such command; it has $COMMANDS"
  for word in "${WORDS[@]:1}"; do
    value=${word#*=}
    case $word in
      out=*)
        out=$value
        continue
        ;;
      # A run's folder as CONFIG is its output folder too.
      /mnt/run/*.yaml | /mnt/run/*.yml) ;;
      /mnt/run/*) out=${out:-$word} ;;
    esac
    case $word in
      /mnt/run/* | *=/mnt/run/*) continue ;;
      *=*/* | *.path=* | *.folder=*) [ -e "$value" ] || continue ;;
      *=*) continue ;;
      *) [ -e "$word" ] || [[ $word == *.yaml ]] || continue ;;
    esac
    [[ $value != /* && -n $(travelling "$value" | tr '\0' '\n') ]] ||
      fail "$word: does not travel with the checkout; scripts/tpu_vm send it to /mnt/run, and name it there"
  done
  case ${WORDS[0]} in demo | generate | chat | plan) return ;; esac
  [ -z "$DISK$NFS" ] || [[ $out == /mnt/run/* ]] ||
    fail "out= is not under /mnt/run, where --disk or --nfs is: a preemption would take it; give out=/mnt/run/$NAME"
}

check_size() {
  local large
  # shellcheck disable=SC2016  # expanded in the inner shell
  large=$(cd "$ROOT" && travelling | xargs -0 sh -c '[ $# = 0 ] || find "$@" -prune -size +100000000c' sh) || true
  large=${large%%$'\n'*}
  [ -z "$large" ] ||
    fail "$large: more than 100 MB, and would travel to every host each time; let git ignore it, and send it"
}

# Print the files of the checkout, or of one place in it, each followed by a NUL; without git, all files except runs and
# hidden ones.
travelling() (
  cd "$ROOT" || exit
  if [ -e .git ] && git rev-parse >/dev/null 2>&1; then
    git ls-files -coz --exclude-standard -- "$@" 2>/dev/null | while IFS= read -r -d '' name; do
      # A tracked file may have been deleted.
      if [ -e "$name" ] || [ -L "$name" ]; then printf '%s\0' "$name"; fi
    done
  else
    find "./${1:-}" -path '*/.?*' -prune -o -path '*/runs/*' -prune -o -type f -print0
  fi
)
