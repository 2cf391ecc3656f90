#!/usr/bin/env bash
# Copies the results of a finished run into its recipe, to be committed by hand: RESULTS.md and results.json; with --as small
# SMALL.md and results_small.json, for a recipe of several chains.
#
#   utils/publish_results.sh home [--workdir DIR] [--as NAME]
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. utils/parse_options.sh
. utils/settings.sh

usage="usage: utils/publish_results.sh RECIPE [--workdir DIR] [--as NAME]"
[[ $# -ge 1 && $1 != -* ]] || usage_error "$usage"
find_recipe "$1"
recipe=$1 && shift
place=$PWD
[[ $recipe_dir != /* ]] || place=$recipe_dir
page=RESULTS.md data=results.json
while (($#)); do
  [[ $# -ge 2 ]] || usage_error "$usage"
  case $1 in
    --workdir) place=$(cd "$called_from" && cd "$2" && pwd -P) ;;
    --as)
      [[ $2 =~ ^[a-z][a-z0-9_]*$ ]] || usage_error "--as: a name of small letters, digits and underscores, not '$2'"
      page=${2^^}.md data=results_$2.json
      ;;
    *) usage_error "$usage" ;;
  esac
  shift 2
done
# a report's names its recipe; those of steps.summarise do not
if [[ $data != results.json && -e $recipe_dir/$page ]] && ! grep -qs '"recipe":' "$recipe_dir/$data"; then
  usage_error "$recipe_dir/$page is there and was not published by this program; choose another name"
fi
report=$place/exp/$name/report
for file in RESULTS.md results.json; do
  if [[ ! -f $report/$file ]]; then
    echo "publish_results.sh: $report/$file is not there; ./run.sh --recipe $recipe makes it (stage 9)" >&2
    exit 5
  fi
done
publish() { # FILE of the report, as FILE of the recipe
  local content
  content=$(<"$report/$1")
  printf '%s\n' "${content//"$place/"/}" >"$recipe_dir/.$2.tmp" # commands as they are without --workdir
  mv "$recipe_dir/.$2.tmp" "$recipe_dir/$2"
}
publish RESULTS.md "$page"
publish results.json "$data"
echo "$recipe_dir/$page and $data are those of $report"
