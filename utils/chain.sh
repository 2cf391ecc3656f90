# shellcheck shell=bash disable=SC2034,SC2154
# The chain of a recipe: its lines, the steps they name, and what each takes from earlier lines. Behind utils/tasks.sh.

# The steps of a chain. Stage; whether it trains: always, never, or `loop`, when its settings have a `loop:` section; what it
# takes from earlier lines: `hub` (nothing; it reads the folder hub_model), `init` (one parent, where it starts, or - for none),
# `teachers` (parents teach, several with commas, or - for none), `model` (one parent is made into another model), or
# `model+teachers` (and, if it trains, the recipe's `teachers` teach it).
# step              stage trains parents
step_table="
import_model        3     never  hub
train_teacher       3     always init
distill_student     4     always teachers
prune_model         5     always model+teachers
quantize_model      6     loop   model+teachers
"
declare -a known_steps=()
mapfile -t known_steps < <(awk 'NF { print $1 }' <<<"$step_table")
declare -a models=() parents=() steps=() confs=()

# Reads the recipe's chain into models, parents, steps and confs; every line is checked.
read_chain() {
  local model parent step conf rest one seen=' - ' where=$recipe_dir/recipe.sh
  while read -r model parent step conf rest; do
    [[ -z $model || $model == \#* ]] && continue
    [[ $model =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*$ && -n $conf && -z $rest ]] ||
      usage_error "$where: a line of chain is 'name parent step conf', not '$model $parent $step $conf $rest'"
    read_step "$step" ||
      usage_error "$where: $model: unknown step $step$(nearest_name "$step" "${known_steps[@]}")"
    case "$step_parents $parent" in
      hub\ -) [[ -n $hub_model || $dry_run == true ]] || usage_error "$where: $model: $step needs hub_model, a folder of a model from a hub" ;;
      init\ *,*) usage_error "$where: $model: $step takes one parent" ;;
      teachers\ * | init\ *) ;;
      hub*) usage_error "$where: $model: the parent of $step is -" ;;
      model*\ -) usage_error "$where: $model: $step needs a parent" ;;
      *,*) usage_error "$where: $model: $step takes one parent" ;;
    esac
    [[ $seen != *" $model "* ]] || usage_error "$where: the chain names $model twice"
    for one in ${parent//,/ }; do
      [[ $seen == *" $one "* ]] || usage_error "$where: $model: parent $one stands on no earlier line"
    done
    seen+="$model "
    models+=("$model") parents+=("$parent") steps+=("$step") confs+=("$(conf_file "$conf")")
  done <<<"$chain"
  ((${#models[@]})) || usage_error "$where: chain is empty"
  for one in ${teachers//,/ }; do
    [[ $seen == *" $one "* ]] || usage_error "$where: teachers: $one is not in the chain"
  done
}

# Looks a step up in the table: sets step_stage, step_trains and step_parents. Fails for a step that is not there.
read_step() {
  local name
  while read -r name step_stage step_trains step_parents; do
    [[ $name != "$1" ]] || return 0
  done <<<"$step_table"
  return 1
}

# Whether the step that was looked up trains with the settings file $1.
trains() {
  case $step_trains in
    always) ;;
    loop) has_section loop "$1" ;;
    *) false ;;
  esac
}

# Whether there is a section $1 in the settings file $2, or in what that has as its base.
has_section() {
  has_line "^$1:" "$2"
}

# Prints the file that the settings file $1 has as its base, if it has one.
base_of() {
  local base
  base=$(sed -n "s/^base: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" "$1")
  [[ -n $base && $base != /* ]] && base=$(dirname "$1")/$base
  [[ ! -f $base ]] || echo "$base"
}

# Whether a line of the settings file $2, or of what that has as its base, matches $1.
has_line() {
  local base
  [[ -f $2 ]] || return # --sizes auto writes it later
  grep -q "$1" "$2" && return
  base=$(base_of "$2")
  [[ -n $base ]] && grep -q "$1" "$base"
}

# Prints the value of the key $1 at the top of the settings file $2, or else of what that has as its base.
top_value() {
  local base=$2
  grep -q "^$1:" "$2" || base=$(base_of "$2")
  [[ -z $base ]] || sed -n "s/ *#.*//; s/ *$//; s/^$1: *//p" "$base"
}

# Adds what the step that was looked up takes from its parent $1, with the settings file $2, to the arrays `options` and `needs`.
parent_options() {
  local taught_by='' file
  [[ $step_parents != model* ]] || options+=(--model "$exp/$1")
  case $step_parents in
    hub)
      options+=(--hub "$hub_model")
      [[ -z $hub_model ]] || needs+=("$hub_model/config.json")
      # the others: its units, and what it hears
      for file in "$hub_model"/{*.safetensors,model.bin,*.json,tokenizer.model}; do
        [[ ! -f $file || $file == */config.json ]] || needs+=("$file")
      done
      ;;
    init) [[ -z $1 ]] || options+=(--init "$exp/$1") ;;
    teachers)
      taught_by=$1
      # weights of the teacher, which its stored labels do not hold
      if [[ -n $1 ]] && has_section inherit "$2"; then
        options+=(--init "$exp/${1%%,*}") && model_files "${1%%,*}" model.json
      fi
      ;;
    model+teachers) if trains "$2"; then taught_by=$teachers; fi ;;
  esac
  [[ ! $step_parents =~ ^(init|model) ]] || model_files "$1" model.json
  [[ -n ${taught_by//[-,]/} ]] || return 0
  if [[ $store_teaching == false ]]; then
    options+=(--teacher "$(model_dirs "$taught_by")") && model_files "$taught_by" model.json
  else
    options+=(--teacher "$(model_dirs "$taught_by" /labels)") && model_files "$taught_by" labels/labels.json
  fi
}

# Whether the model $1 teaches one of the chain.
is_teacher() {
  local i
  for i in "${!models[@]}"; do
    read_step "${steps[$i]}"
    case $step_parents in
      teachers) [[ ",${parents[$i]}," != *,"$1",* ]] || return 0 ;;
      model+teachers) [[ " ${teachers//,/ } " != *" $1 "* ]] || return 0 ;;
    esac
  done
  return 1
}

# Declares what makes the model at place $1 of the chain.
make_model() { # INDEX
  local dir=$exp/${models[$1]} parent=${parents[$1]#-} needs=() settings=("${confs[$1]}") options=() at_a_time=() gpus=
  read_step "${steps[$1]}"
  parent_options "$parent" "${confs[$1]}"
  if trains "${confs[$1]}"; then
    needs+=("$train/feats.scp" "$train/cmvn.json" "$dev/feats.scp" "$data/tokenizer/tokens.txt")
    needs+=(${after_tokenizer:+@after_tokenizer}) settings+=("$features") at_a_time=("$trainings")
    options+=(--data "$train" --dev "$dev" --tokenizer "$data/tokenizer" --features "$features" "${common[@]}")
    gpus="--gpu $ngpu --processes $processes --nodes $nodes"
  fi
  task "$step_stage" "${models[$1]}" --needs "${needs[@]}" --conf "${settings[@]}" --makes "$dir"/model.{json,safetensors} \
    --parallel "${at_a_time[@]}" --replaces "$dir" --log "$dir/train.log" --runner "$heavy $gpus" -- \
    python3 -m "steps.${steps[$1]}" "${options[@]}" --config "${confs[$1]}" --out "$dir"
}

# Declares the labelling of the training set by the model at place $1 of the chain, if it teaches and that is asked for.
store_labels() {
  local model=${models[$1]} dir=$exp/${models[$1]} label
  [[ $store_teaching == true ]] && is_teacher "$model" || return 0
  label=$(conf_file label.yaml) && read_step "${steps[$1]}"
  task "$step_stage" "store_$model" --needs "$dir/model.json" "$train/feats.scp" --conf "$label" --makes "$dir/labels/labels.json" \
    --runner "--mem 4G --gpu $((ngpu > 0))" -- \
    "JOB=1:{nj}" python3 -m steps.label_data --teacher "$dir" --data "$train" --config "$label" --out "$dir/labels" \
    --shard JOB --num-shards "{nj}" --device "$device" --num-threads 1 :then: \
    python3 -m steps.combine_labels --data "$train" --labels "$dir/labels" --num-shards "{nj}"
}

# Prints the folders of the models $1 (separated by commas or blanks), $2 put behind each, with commas.
model_dirs() {
  local one dirs=
  for one in ${1//,/ }; do dirs+=${dirs:+,}$exp/$one${2:-}; done
  printf '%s' "$dirs"
}

# Adds the file $2 of the models $1 to the array `needs`, each once.
model_files() {
  local one
  for one in ${1//,/ }; do
    [[ " ${needs[*]} " == *" $exp/$one/$2 "* ]] || needs+=("$exp/$one/$2")
  done
}
