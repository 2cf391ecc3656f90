# shellcheck shell=bash disable=SC2034,SC2154
# Settings of a run: reads the recipe, finds its settings files, and refuses what would fail later. Behind utils/parse_options.sh.

declare -a words=() yamls=() word_list=() label_list=()

# Sets recipe_dir and name for the recipe $1: a name in recipes/, or a folder relative to $called_from.
find_recipe() {
  local root=$PWD folder=$1
  if [[ $folder != */* && -f recipes/$folder/recipe.sh ]]; then
    folder=$root/recipes/$folder
  elif [[ $folder != /* ]]; then
    folder=$called_from/$folder
  fi
  if [[ ! -f $folder/recipe.sh ]]; then
    local known_file known=()
    for known_file in recipes/*/recipe.sh; do
      known_file=${known_file#recipes/}
      known+=("${known_file%/recipe.sh}")
    done
    usage_error "no recipe $1$(nearest_name "$1" "${known[@]}"); known: ${known[*]}, or name a folder with recipe.sh"
  fi
  folder=$(cd "$folder" && pwd -P)
  name=${folder##*/}
  recipe_dir=${folder#"$root/"}
}

# Reads recipe.sh and refuses variables that run.sh does not know; helper variables start with an underscore.
read_recipe() {
  local before after new
  before=$(compgen -v)
  # shellcheck disable=SC1091
  . "$recipe_dir/recipe.sh"
  after=$(compgen -v)
  for new in $(grep -vxF "$before" <<<"$after" || true); do
    case $new in
      _* | before | after | new | BASH_* | PIPESTATUS) ;;
      *) usage_error "$recipe_dir/recipe.sh: unknown variable $new$(nearest_name "$new" "${setting_names[@]}")" ;;
    esac
  done
}

# For a recipe that comes in several kinds: prints the value of its environment variable, the first of the values if there is none.
choice() { # NAME VALUE...
  local value=${!1:-$2} known
  for known in "${@:2}"; do [[ $value != "$known" ]] || { printf '%s' "$value"; return; }; done
  usage_error "$1 is one of ${*:2}, not '$value'"
}

# Prints the path of a settings file: in the recipe's conf/, in the recipe, or here.
conf_file() {
  local place
  for place in "$recipe_dir/conf/$1" "$recipe_dir/$1" "conf/$1" "$1"; do
    [[ -f $place ]] && break
    place=$recipe_dir/conf/$1
  done
  printf '%s' "$place"
}

# Splits a recipe's command at blanks into the array `words` and replaces $name by the variable of that name, once.
# Settings files among them are listed in the array `yamls`, so that a change in one is noticed.
expand() {
  local result rest variable split=()
  read -r -d '' -a split <<<"$1" || true
  words=() yamls=()
  for rest in "${split[@]}"; do
    result=
    while [[ $rest =~ ^([^$]*)\$\{?([a-z_]+)\}?(.*)$ ]]; do
      variable=${BASH_REMATCH[2]} rest=${BASH_REMATCH[3]}
      [[ -v $variable ]] || usage_error "$recipe_dir/recipe.sh: no setting is named $variable (in: $1)"
      result+=${BASH_REMATCH[1]}
      if [[ $variable == nj ]]; then result+='{nj}'; else result+=${!variable}; fi
    done
    words+=("$result$rest")
    [[ $result$rest != *.yaml ]] || yamls+=("$result$rest")
  done
}

# Refuses settings that would fail only in a later stage; names the lists that limit decoding; begins the plan.
check_settings() {
  local name word
  for name in nj decode_nj trainings num_threads processes nodes labelled_copies rounds; do
    [[ ${!name} =~ ^[1-9][0-9]{0,5}$ ]] || usage_error "--${name//_/-} is a whole number from 1 on, not '${!name}'"
  done
  for name in stage stop_stage; do
    [[ ${!name} =~ ^[0-9]$ ]] || usage_error "--${name//_/-} is a number from 0 to 9, not '${!name}'"
  done
  ((stage <= stop_stage)) || usage_error "--stage $stage comes after --stop-stage $stop_stage"
  [[ $seed =~ ^[0-9]{1,9}$ ]] || usage_error "--seed is a whole number of at most 9 digits, not '$seed'"
  [[ $device =~ ^(auto|cpu|cuda(:[0-9]+)?)$ ]] || usage_error "--device is auto, cpu or cuda, not '$device'"
  [[ $device != cpu ]] || ngpu=0
  [[ $ngpu =~ ^[0-9]{1,2}$ ]] || usage_error "--ngpu is a number of GPUs, not '$ngpu'"
  [[ $processes == 1 || $device == cpu ]] || usage_error "--processes is for --device cpu; with GPUs give --ngpu N"
  ((ngpu <= 1)) || processes=$ngpu
  [[ -n ${test_sets// /} ]] || usage_error "test_sets is empty; name at least one set"
  for word in "$train_set" "$dev_set" $test_sets $unlabelled_sets "${models[@]}"; do
    [[ ! $word =~ (^|[^A-Za-z0-9])JOB([^A-Za-z0-9]|$)|\{nj\} ]] || usage_error "$word: JOB and {nj} stand for numbers; choose another name"
  done
  [[ $data$corpus_dir != *$'\n'* ]] || usage_error "a folder with a line end in its name cannot be used: ${data@Q}"
  [[ $exp != *,* ]] || usage_error "$exp: commas separate models, so no folder on the way may have one in its name"
  for name in lexicon one_of classes compress sherpa store_teaching; do
    [[ ${!name} =~ ^(true|false)$ ]] || usage_error "--${name//_/-} is true or false, not '${!name}'"
  done
  for word in $stress; do
    [[ $word =~ ^-?[0-9]{1,3}$ ]] || usage_error "stress: '$word' is not a whole number of dB"
  done
  [[ $cut_max_s =~ ^([1-9][0-9]?|0)([.][0-9]+)?$ ]] || usage_error "--cut-max-s is a number of seconds below 100, not '$cut_max_s'"
  [[ -n ${speeds// /} ]] || usage_error "speeds is empty; 1.0 alone makes no copies"
  for word in $speeds; do
    [[ $word =~ ^[0-9]+([.][0-9]+)?$ ]] || usage_error "speeds: '$word' is not a number"
  done
  [[ ,$compare =~ ^(,([^:,[:space:]]+:[^:,[:space:]]+)?)+$ ]] || usage_error "compare is A:B,C:D, not '$compare'"
  for word in ${compare//[:,]/ } $ships; do
    [[ " ${models[*]} " == *" $word "* ]] || usage_error "compare, ships: no model $word in the chain$(nearest_name "$word" "${models[@]}")"
  done
  [[ $streaming_reference != *[[:space:]]* ]] || usage_error "streaming_reference is one model, not '$streaming_reference'"
  for word in $streaming $streaming_reference; do
    [[ " ${models[*]} " == *" $word "* ]] || usage_error "streaming: no model $word in the chain$(nearest_name "$word" "${models[@]}")"
  done
  [[ -z $streaming || -n ${chunks// /} ]] || usage_error "chunks is empty; name the length of at least one, in ms"
  check_chunks
  [[ $lexicon == false ]] || word_list=("$data/words.txt")
  [[ $one_of == false ]] || label_list=("$data/labels.txt")
  check_sherpa
  plan=(--verbatim "$data" "$recipe_dir" "$corpus_dir")
  for word in "$transcribe_with" "$transcribe_check" "$transcribe_words" "$transcribe_command"; do plan+=(${word:+"$word"}); done
  word=${cmd%% *}
  [[ -f $word ]] || command -v "$word" >/dev/null || usage_error "--cmd: no program $word here"
}

# Refuses lengths of chunks that no model can have, by the two numbers that steps/models/streaming.py tells.
check_chunks() {
  local word step most
  step=$(sed -n 's/^FRAME_MS = //p' steps/models/streaming.py) most=$(sed -n 's/^LONGEST_CHUNK_MS = //p' steps/models/streaming.py)
  for word in $chunks; do
    [[ $word =~ ^[1-9][0-9]{1,5}$ && $((word % step)) == 0 && $word -le $most ]] ||
      usage_error "chunks: '$word' is not a multiple of $step (ms), at most $most"
  done
}

# Refuses features that sherpa-onnx does not compute (steps/deploy/runtimes/sherpa.py) before anything is trained.
check_sherpa() {
  local key value base
  local -A given=() default=([kind]=fbank [num_ceps]=40 [frame_length_ms]=25 [low_freq_hz]=20 [high_freq_hz]=-400 [window]=povey
    [snip_edges]=false [level_dbfs]=null)
  [[ $sherpa == true && -f $features ]] || return 0
  base=$(sed -nE "s/^base: *[\"']?([^\"'#]*[^\"'# ]).*/\1/p" "$features")
  # the file's own lines come last and count
  while read -r key value; do given[$key]=${value%.0}; done < <(sed -nE "s/^([a-z_]+): *[\"']?([^\"'# ]+).*/\1 \2/p" \
    ${base:+"${features%/*}/$base"} "$features" 2>/dev/null)
  hears=${given[kind]:-fbank}
  [[ $hears == samples || " ${steps[*]} " != *" import_model "* ]] ||
    usage_error "sherpa: sherpa-onnx takes imported models, which hear samples, only where the recipe's features are samples (features=samples.yaml); leave out sherpa=true"
  for key in "${!default[@]}"; do
    value=${given[$key]:-${default[$key]}}
    [[ $value == "${default[$key]}" || $hears == samples ]] ||
      usage_error "sherpa: sherpa-onnx computes no features with $key: $value, as in $features; leave out that or sherpa=true"
  done
}

# Makes python3 one that has what the recipe needs; its own requirements files may lie in its folder.
install_requirements() {
  local file files=(requirements.txt)
  [[ $sherpa == false ]] || files+=(requirements-sherpa.txt)
  [[ -z $lm ]] || files+=(requirements-lm.txt)
  [[ " ${steps[*]} " != *" import_model "* ]] || files+=(requirements-hub.txt)
  for file in $extra_requirements; do
    [[ -f $recipe_dir/$file ]] && file=$recipe_dir/$file
    files+=("$file")
  done
  ensure_python "${files[@]}"
}
