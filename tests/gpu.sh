#!/usr/bin/env bash
# What a GPU is held to and how fast it trains, in one command of at most eight minutes; one H100 should need about five.
#
#   tests/gpu.sh --out results                              on the GPU that torch sees
#   tests/gpu.sh --out results --device cpu --quick         a trial of the check itself: two small updates of everything
#   tests/gpu.sh --out results --only small_conformer,limits
#
# Installs nothing: `python3` is whatever has torch and torchaudio, and PYTHONPATH counts. Packages that are missing are
# named, and what needs them is left out. Every section has a time limit of its own, and one that fails costs the others
# nothing. Writes results.json, results.md and gpu.log to --out; everything else goes to a temporary folder. --commit names
# what is tested where there is no git. Status 0: everything ran and holds; 1: something did not; 2: wrong usage.
set -uo pipefail
SECONDS=0
LIMIT_S=455 # of all sections together; the tables come after them
TRIAL=4     # a trial may take so many times as long: it may have to share a processor
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
names="card corpus small_conformer large_conformer teacher limits on_the_fly deterministic kills tests"
out='' device=cuda quick='' only=$names commit='' status=0

usage() {
  echo "gpu.sh: $1" >&2
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --out | --device | --only | --commit)
      (($# > 1)) || usage "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --quick) quick=--quick && shift ;;
    *) usage "unknown option $1" ;;
  esac
done
[[ -n $out ]] || usage "--out is missing"
for name in ${only//,/ }; do
  [[ " $names " == *" $name "* ]] || usage "--only: there is no section $name; there are $names"
done
mkdir -p "$out" && out=$(cd "$out" && pwd -P) || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/gpu-check.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$root" || exit 1
slack=${quick:+$TRIAL}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUTF8=1 LC_ALL=C.UTF-8 PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# From here on, what this shell has started ends with it.
stoppable() {
  trap 'jobs -p | xargs -r kill; exit 143' TERM INT
}

# Runs one section within its limit and what is left of the whole; notes and shows what became of it.
section() { # NAME LIMIT_S COMMAND...
  local name=$1 began=$SECONDS became log=$work/$1.log
  local limit=$(($2 * ${slack:-1})) left=$((LIMIT_S * ${slack:-1} - SECONDS))
  shift 2
  [[ " ${only//,/ } card corpus " == *" $name "* ]] || return 0
  ((left > limit)) || limit=$left
  if [[ -s $work/left_out/$name ]]; then
    became="left out: $(<"$work/left_out/$name")"
  elif ((limit < 10)); then
    became="not begun: no time was left"
  else
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1 </dev/null &
    wait "$!"
    case $? in
      0) became=ok ;;
      124 | 137) became="cut off after $limit s" ;;
      *) became="failed" ;;
    esac
  fi
  printf '%s\t%s\t%s\n' "$name" "$became" "$((SECONDS - began))" >>"$work/sections.tsv"
  printf '%-16s %4d s  %s\n' "$name" "$((SECONDS - began))" "$became"
  [[ $became == ok ]] && return 0
  [[ ! -e $log ]] || tail -n 12 "$log" | cut -c1-300 | sed 's/^/    /'
  return 1
}

measure() { # PLAN LIMIT_S
  section "$1" "$2" python3 -m tests.gpu.throughput --corpus "$work/corpus" --plan "$1" --device "$device" \
    --out "$work/$1.json" $quick || status=1
}

all_sections() {
  local size=(--utterances 16000 --recordings 1500) times=4 kills
  [[ -z $quick ]] || size=(--utterances 400 --recordings 40 --longest 2) times=2
  section corpus 75 python3 -m tests.gpu.corpus --out "$work/corpus" "${size[@]}" --sound || status=1
  measure small_conformer 70
  measure large_conformer 70
  measure teacher 50
  section limits 45 python3 -m tests.gpu.limits --corpus "$work/corpus" --device "$device" --out "$work/limits.json" $quick ||
    status=1
  measure on_the_fly 60
  measure deterministic 35
  # Side by side, since neither measures time.
  {
    stoppable
    section kills 150 python3 -m tests.gpu.kills --device "$device" --workdir "$work/kills" --out "$work/kills.json" \
      --kills "$times" $quick
  } &
  kills=$!
  section tests 120 python3 -m pytest -q -m gpu -p no:cacheprovider --durations 5 tests/training || status=1
  wait "$kills" || status=1
}

stoppable
section card 75 python3 -m tests.gpu.card --device "$device" --commit "$commit" --out "$work/card.json" \
  --left-out "$work/left_out" || status=1
# Without its file there is no such device.
[[ ! -e $work/card.json ]] || all_sections
for name in $names; do
  [[ ! -e $work/$name.log ]] || { printf '\n== %s\n' "$name" && cat "$work/$name.log"; }
done >"$out/gpu.log"
echo
python3 -m tests.gpu.report --work "$work" --out "$out" --title "${quick:+a trial run, its numbers mean nothing}" || status=1
echo "$SECONDS s, status $status; results in $out"
exit "$status"
