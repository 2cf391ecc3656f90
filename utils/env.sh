# shellcheck shell=bash
# What Kaldi users know as path.sh; sourced by run.sh, tests/run.sh and cluster tasks.
#   . utils/env.sh                                   finds the repository, sets the locale; starts no program
#   ensure_python requirements.txt [more.txt ...]    makes `python3` one that has exactly these packages
# `ensure_python` keeps an active Python that has them; else it fills .venv (or $SLIM_ASR_VENV) with pip, whose own
# settings hold.

slim_asr_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export PYTHONUTF8=1 LC_ALL=C.UTF-8
# What is checked is what runs: no packages from elsewhere.
export PYTHONNOUSERSITE=1 PYTHONPATH=$slim_asr_root
unset PYTHONHOME

env_error() {
  printf 'set-up: %s\n' "$@" >&2
}

# Succeeds when $1 really runs and is a supported version (a version manager's shim may exist and fail).
python_is_supported() {
  "$1" -I -S -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null </dev/null
}

find_python() {
  local name
  for name in python3 python3.12 python3.11; do
    if command -v "$name" >/dev/null && python_is_supported "$name"; then
      python=$name
      return 0
    fi
  done
  local have
  have=$(command -v python3 >/dev/null && python3 -V 2>&1 | head -n 1) || true
  env_error "needs Python 3.11 or 3.12, found ${have:-none}; put one on PATH (Debian: apt install python3.11-venv)"
  return 1
}

# The virtual environment holds a copy of every requirements file whose packages are all in: written last, so an
# interrupted installation is taken up again.
venv_stamp() {
  printf '%s/.installed/%s' "$venv" "${1//\//%}"
}

venv_is_ready() {
  local file stamp
  [[ -x $venv/bin/python3 ]] || return 1
  for file in "$@"; do
    stamp=$(venv_stamp "$file")
    [[ -f $stamp && $(<"$stamp") == "$(<"$file")" ]] || return 1
  done
}

make_venv() {
  if [[ ! -f $venv/pyvenv.cfg && -n $(find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock) ]]; then
    env_error "$venv is not a virtual environment and not empty; set SLIM_ASR_VENV to another folder"
    return 1
  fi
  if ! "$python" -I -c 'import venv, ensurepip' 2>/dev/null; then
    local version
    version=$("$python" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    env_error "Python $version lacks the modules venv and ensurepip (Debian, Ubuntu: apt install python$version-venv)"
    return 1
  fi
  find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
  if ! "$python" -m venv "$venv" >"$venv/pip.log" 2>&1 </dev/null; then
    explain_failure "making the virtual environment failed"
    return 1
  fi
}

# One line that says what went wrong, then the end of pip's log.
explain_failure() {
  local log=$venv/pip.log package
  local offline='NewConnectionError|name resolution|Timeout|Max retries|ProxyError|Connection (refused|reset)'
  if grep -qiE 'No space left|Disk quota exceeded' "$log"; then
    env_error "no disk space left: $venv and ${TMPDIR:-/tmp} need 6 GB (SLIM_ASR_VENV and TMPDIR name other places)"
  elif grep -qiE "$offline" "$log"; then
    env_error "cannot reach the package index; check the network and the index that pip is set to (pip config list)"
  elif package=$(grep -oE 'No matching distribution found for [^ ]+' "$log"); then
    env_error "the package index has no ${package##* } for this Python and machine"
  else
    env_error "$1"
  fi
  env_error "the log is $log; its last lines:"
  tail -n 6 "$log" | sed 's/^/    /' >&2
}

fill_venv() {
  local file options=()
  if ! python_is_supported "$venv/bin/python3" || ! "$venv/bin/python3" -I -c 'import pip' 2>/dev/null; then
    make_venv || return 1
  fi
  for file in "$@"; do options+=(-r "$file"); done
  env_error "installing $* into $venv (several minutes and 5 GB the first time; log: $venv/pip.log)"
  if ! PIP_USER=0 "$venv/bin/python3" -m pip install --no-compile "${options[@]}" >"$venv/pip.log" 2>&1 </dev/null; then
    explain_failure "pip failed"
    return 1
  fi
  # Bytecode of some 14,000 files: pip would write it on one core. Files that are no Python of this version stay as they are.
  "$venv/bin/python3" -I -m compileall -q -q -j 0 "$venv/lib" >>"$venv/pip.log" 2>&1 </dev/null || true
  mkdir -p "$venv/.installed"
  for file in "$@"; do
    cp "$file" "$venv/.installed/.new" && mv "$venv/.installed/.new" "$(venv_stamp "$file")"
  done
}

ensure_python() {
  local python file venv=${SLIM_ASR_VENV:-$slim_asr_root/.venv}
  for file in "$@"; do
    [[ -f $file ]] || { env_error "$file: no such requirements file"; return 1; }
  done
  if ! venv_is_ready "$@"; then
    find_python || return 1
    if [[ $python == python3 ]] && python3 -I "$slim_asr_root/utils/check_requirements.py" "$@" >/dev/null; then
      return 0
    fi
    if ! mkdir -p "$venv" 2>/dev/null || [[ ! -w $venv ]]; then
      env_error "cannot write $venv; set SLIM_ASR_VENV to a folder you can write"
      return 1
    fi
    (
      if command -v flock >/dev/null && ! flock -n 9; then
        env_error "another set-up is filling $venv; waiting for it"
        flock 9
      fi
      venv_is_ready "$@" || fill_venv "$@"
    ) 9>"$venv/.lock" || return 1
  fi
  export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
  hash -r
}
