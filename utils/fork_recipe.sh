#!/usr/bin/env bash
# Copies a recipe so that it can be changed freely: settings with their base files, and where it came from.
#
#   utils/fork_recipe.sh home kitchen              -> recipes/kitchen, same corpus
#   utils/fork_recipe.sh home /data/asr/kitchen    -> a folder elsewhere, with a reader to fit to your own corpus
#
# FROM: a name in recipes/, or a folder that holds recipe.sh. TO: a new name, or a new folder with a / in it.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. utils/parse_options.sh
. utils/settings.sh

usage="usage: utils/fork_recipe.sh FROM TO (a name, or a folder with a / in it)"
if [[ $# -eq 1 && ($1 == -h || $1 == --help) ]]; then
  echo "$usage"
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' utils/fork_recipe.sh
  exit 0
fi
[[ $# -eq 2 && $1 != -* && $2 != -* ]] || usage_error "$usage"
find_recipe "$1"
case $2 in
  /*) to=$2 ;;
  recipes/*/*) to=$called_from/$2 ;;
  recipes/?*) to=$2 ;; # the same as the name alone
  */*) to=$called_from/$2 ;;
  *) to=recipes/$2 ;;
esac
to=${to%/}
[[ $to != /* ]] || to=$(realpath -m "$to")
[[ ${to##*/} =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ ]] || usage_error "$2: the name may have letters, digits, _ . and -"
[[ ! -e $to ]] || usage_error "$to exists already; nothing was changed"

# Everything is written beside the target and renamed at the end.
new=$to.new.$$
trap 'rm -rf "$new"' EXIT
if ! mkdir -p "$new/conf" 2>/dev/null; then
  echo "utils/fork_recipe.sh: $to cannot be written; name a folder elsewhere, such as ~/asr/${to##*/}" >&2
  exit 1
fi
copy() { # FROM TO: a copy that can be changed, also of a checkout without write bits
  cp -R "$1" "$2"
  chmod -R u+w "$new"
}
# A corpus that lies inside the recipe stays where it is.
# shellcheck disable=SC1091
corpus=$(set +u && corpus_dir= && . "$recipe_dir/recipe.sh" >/dev/null && printf %s "$corpus_dir")
[[ $corpus == "$recipe_dir"/* && -e $corpus ]] || corpus=
inside=${corpus#"$recipe_dir"/}
for file in "$recipe_dir"/*; do
  case ${file##*/} in
    "${inside%%/*}" | conf | data | exp | *.md | results*.json | __pycache__ | FORKED_FROM) ;;
    *) copy "$file" "$new/" ;;
  esac
done

# Settings files of the recipe, then those here that its recipe.sh names or that are the defaults of run.sh.
for file in "$recipe_dir"/conf/*.yaml; do
  [[ ! -f $file ]] || copy "$file" "$new/conf/"
done
[[ ! -d $recipe_dir/conf/base ]] || copy "$recipe_dir/conf/base" "$new/conf/"
for file in conf/*.yaml; do
  settings=${file##*/}
  if [[ ! -e $new/conf/$settings ]]; then
    case $settings in
      features.yaml | tokenizer.yaml | decode.yaml | label.yaml) copy "$file" "$new/conf/" ;;
      *) ! grep -qwF "$settings" "$recipe_dir/recipe.sh" || copy "$file" "$new/conf/" ;;
    esac
  fi
done
as_replacement() { # what sed would take for more than text is made text
  local text=${1//\\/\\\\}
  text=${text//&/\\&}
  printf '%s' "${text//|/\\|}"
}
for file in "$new"/conf/*.yaml; do
  [[ -f $file ]] || continue
  base=$(sed -nE "s/^base:[[:space:]]*[\"']?([^\"'#]*[^\"'#[:space:]]).*/\1/p" "$file")
  if [[ $base == */* && $base != base/* ]]; then
    mkdir -p "$new/conf/base"
    copy "$recipe_dir/conf/$base" "$new/conf/base/"
    sed -i -E "s|^base:.*|base: base/$(as_replacement "${base##*/}")|" "$file"
  elif [[ -n $base && ! -e $new/conf/$base ]]; then # its neighbour in conf/
    mkdir -p "$new/conf/base"
    copy "conf/$base" "$new/conf/base/"
    sed -i -E "s|^base:.*|base: base/$(as_replacement "$base")|" "$file"
  fi
done

sed -i -E "s/^recipe_name=.*/recipe_name=${to##*/}/" "$new/recipe.sh"
if [[ -n $corpus ]]; then
  printf -v corpus %q "$(cd "$corpus" && pwd -P)"
  sed -i "s|^corpus_dir=.*|corpus_dir=$(as_replacement "$corpus")|" "$new/recipe.sh"
fi
commit=$(git describe --always --abbrev=40 --match= --dirty=' (with local changes)' 2>/dev/null) || commit=unknown
printf 'recipe %s\ncommit %s\n' "$recipe_dir" "$commit" >"$new/FORKED_FROM"

if grep -qE '^prepare=.*prepare_(kaldi|manifest|labelled_folder)\.py' "$new/recipe.sh"; then # reads anybody's data
  reader="your data:      corpus_dir= in $to/recipe.sh, and --sets, --pattern or the like in prepare="
  # a fork of a fork names it already
  grep -q '^corpus_dir=' "$new/recipe.sh" || cat >>"$new/recipe.sh" <<'LINES'

# Your corpus: its folder, such as /data/mine; --corpus-dir on the command line wins.
corpus_dir=
LINES
elif grep -qE '^prepare=.*\$\{?recipe_dir\}?/[^[:space:]"]*\.py' "$new/recipe.sh"; then # a fork has one of its own
  reader="its reader:     that of $recipe_dir, copied; corpus_dir= in $to/recipe.sh"
elif [[ $2 != */* ]]; then
  reader="its reader:     the program in prepare= of $to/recipe.sh"
else
  reader="its reader:     $to/local/prepare.py, and corpus_dir= in $to/recipe.sh"
  mkdir -p "$new/local"
  copy utils/prepare_template.py "$new/local/prepare.py"
  sed -i -E '/^(prepare|extra_requirements|corpus_dir)=/d' "$new/recipe.sh"
  [[ -e $new/conf/prepare.yaml ]] || copy conf/prepare.yaml "$new/conf/"
  cat >>"$new/recipe.sh" <<'LINES'

# Your corpus: local/prepare.py reads train.tsv, dev.tsv and test.tsv in this folder (or what you change it to).
# shellcheck disable=SC2154  # recipe_dir: this folder
corpus_dir=$recipe_dir/corpus
prepare="python3 \$recipe_dir/local/prepare.py --corpus-dir \$corpus_dir --unlabelled \$unlabelled_sets --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
LINES
fi
name=${to##*/}
recipe=$name data=data/$name/train
[[ $to != /* ]] || printf -v recipe %q "$to"
[[ $to != /* ]] || printf -v data %q "$to/data/$name/train"
mkdir -p "$(dirname "$to")"
mv "$new" "$to"
cat <<TEXT
$to is made from $recipe_dir. Next, in this order (README.md, Your own corpus):
  $reader
  what is read:   ./run.sh --recipe $recipe --stop-stage 0 (the log tells sets, speakers, hours and the rate of the sound)
  by hand:        . .venv/bin/activate, once a terminal, if the set-up made .venv
  how it sounds:  python3 -m steps.describe_data --data $data --out stats
  its settings:   $to/conf/: prepare, tokenizer, teacher, student; then the chain in $to/recipe.sh
  what would run: ./run.sh --recipe $recipe --dry-run
TEXT
