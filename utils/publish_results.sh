#!/usr/bin/env bash
# Copies the results of a finished run into its recipe, to be committed by hand: RESULTS.md and results.json.
#
#   utils/publish_results.sh home [--workdir DIR]
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. utils/parse_options.sh
. utils/settings.sh

[[ $# -ge 1 && $1 != -* && ($# -eq 1 || ($# -eq 3 && $2 == --workdir)) ]] ||
  usage_error "usage: utils/publish_results.sh RECIPE [--workdir DIR]"
find_recipe "$1"
place=$PWD
[[ $recipe_dir != /* ]] || place=$recipe_dir
if (($# == 3)); then
  place=$(cd "$called_from" && cd "$3" && pwd -P)
fi
report=$place/exp/$name/report
for file in RESULTS.md results.json; do
  if [[ ! -f $report/$file ]]; then
    echo "publish_results.sh: $report/$file is not there; ./run.sh --recipe $1 makes it (stage 9)" >&2
    exit 5
  fi
done
for file in RESULTS.md results.json; do
  content=$(<"$report/$file")
  printf '%s\n' "${content//"$place/"/}" >"$recipe_dir/.$file.tmp" # commands as they are without --workdir
  mv "$recipe_dir/.$file.tmp" "$recipe_dir/$file"
done
echo "$recipe_dir/RESULTS.md and results.json are those of $report"
