# shellcheck shell=bash disable=SC2034,SC2154
# Small functions that run.sh uses to read a recipe and to declare its tasks.

declare -a plan=() words=() yamls=() heard=() scores=() word_list=() label_list=()
sherpa_export="export"

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
  for name in nj decode_nj trainings num_threads processes nodes labelled_copies; do
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
  for name in classes one_of sherpa store_teaching; do
    [[ ${!name} =~ ^(true|false)$ ]] || usage_error "--$name is true or false, not '${!name}'"
  done
  for word in $stress; do
    [[ $word =~ ^-?[0-9]{1,3}$ ]] || usage_error "stress: '$word' is not a whole number of dB"
  done
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
  for word in $chunks; do
    # as steps/models/streaming.py takes them
    [[ $word =~ ^[1-9][0-9]{1,3}$ && $((word % 40)) == 0 && $word -le 8000 ]] ||
      usage_error "chunks: '$word' is not a multiple of 40 (ms), at most 8000"
  done
  [[ $lexicon == false ]] || word_list=("$data/words.txt")
  [[ $one_of == false ]] || label_list=("$data/labels.txt")
  check_sherpa
  plan=(--verbatim "$data" "$recipe_dir" "$corpus_dir")
  word=${cmd%% *}
  [[ -f $word ]] || command -v "$word" >/dev/null || usage_error "--cmd: no program $word here"
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

# Declares a task for utils/stage.py, whose head explains the words.
task() {
  plan+=(:: "$@")
}

# Declares the recipe's own command named $2 in stage $1, if there is one; the rest are its inputs.
extra_task() {
  [[ -n ${!2} ]] || return 0
  expand "${!2}"
  task "$1" "$2" --needs "${@:3}" --conf "${yamls[@]}" -- "${words[@]}"
}

# Declares the training of the language model, if one is asked for.
lm_task() {
  [[ -n $lm ]] || return 0
  local source=(--data "${sets[0]}") need=${sets[0]}/text words=("${word_list[@]}")
  [[ -z $lm_text ]] || source=(--text "$lm_text") need=$lm_text
  [[ $lm_text != *.arpa ]] || source=(--arpa "$lm_text") words=()
  task 2 lm --needs "$need" "$dev/text" "${words[@]}" --conf "$lm" --makes "$data/lm/lm.arpa" -- \
    python3 -m steps.train_lm "${source[@]}" --dev "$dev" "${words[@]/#/--words=}" --config "$lm" --out "$data/lm"
}

# Declares the export of the model $1, with the graph of the language model if there is one.
export_task() {
  local needs=("$exp/$1/model.json") conf=() graph=() out=$exp/$1/export
  if [[ -n $lm ]]; then
    needs+=("$data/lm/lm.arpa" "$dev/feats.scp" "$dev/text" ${spellings:+"$spellings"}) conf=(--conf "$lm" "$decode")
    graph=(:then: python3 -m steps.make_graph --export "$out" --lm "$data/lm/lm.arpa" --dev "$dev" --config "$lm"
      --decode-config "$decode" ${spellings:+--lexicon "$spellings"})
  fi
  task 7 "export_$1" --needs "${needs[@]}" "${conf[@]}" --parallel --makes "$out/SHA256SUMS" -- \
    python3 -m steps.export_model --model "$exp/$1" --out "$out" "${graph[@]}"
  export_for_sherpa "$1"
  ! is_streaming "$1" || export_chunks "$1"
}

# Whether the recipe lists the model $1 as one that streams.
is_streaming() {
  [[ " $streaming " == *" $1 "* ]]
}

# Declares an export of the model $1 for each length of its chunks, and one for whole utterances.
export_chunks() {
  local ms
  for ms in 0 $chunks; do
    task 7 "export_${1}_chunk_$ms" --needs "$exp/$1/model.json" --parallel --makes "$exp/$1/export_chunk_$ms/SHA256SUMS" -- \
      python3 -m steps.export_model --model "$exp/$1" --chunk-ms "$ms" --out "$exp/$1/export_chunk_$ms"
  done
}

# Declares decoding of these exports as sound would arrive, on set $2, greedily, and when the words come out.
score_chunks() { # MODEL SET
  local ms live=() dir=$exp/$1 decode_nj=1 lm='' word_list=() label_list=() delays
  for ms in 0 $chunks; do
    score "decode_${1}_${2}_chunk_$ms" "$dir/export_chunk_$ms" SHA256SUMS "$2" "$dir/decode_${2}_chunk_$ms" "${live[@]}"
    live=(--streaming)
    [[ $ms != 0 && -n $streaming_reference ]] || continue
    delays=$dir/delays_${2}_chunk_$ms.json
    scores+=("$delays")
    task 8 "delays_${1}_${2}_chunk_$ms" --needs "$dir/model.json" "$exp/$streaming_reference/model.json" "$data/$2/feats.scp" \
      "$data/$2/text" --makes "$delays" --parallel -- python3 -m steps.time_words --model "$dir" \
      --reference "$exp/$streaming_reference" --data "$data/$2" --chunk-ms "$ms" --out "$delays"
  done
}

# Declares decoding and scoring of the folder $2 of the model in $dir, whose file $3 makes it usable, on set $4 into $5; the
# rest are options.
score() { # NAME DIR NEEDED_FILE SET OUT [OPTIONS]
  local as_classes=() array=() part=() combine=() graph=()
  [[ -z $lm ]] || graph=("$dir/export")
  [[ $classes == false ]] || as_classes=(--classes true)
  if ((decode_nj > 1)); then
    array=("JOB=1:$decode_nj") part=(--shard JOB --num-shards "$decode_nj")
    combine=(python3 -m steps.combine_decodes --data "$data/$4" --decode "$5" --num-shards "$decode_nj" :then:)
  fi
  scores+=("$5/score_greedy.json")
  task 8 "$1" --needs "$2/$3" "$data/$4/feats.scp" "$data/$4/text" "${word_list[@]}" "${label_list[@]}" "${graph[@]/%//SHA256SUMS}" --conf "$decode" \
    --makes "$5/greedy.txt" "$5/score_greedy.json" --parallel -- \
    "${array[@]}" python3 -m steps.decode --model "$2" --data "$data/$4" --config "$decode" "${word_list[@]/#/--words=}" "${label_list[@]/#/--labels=}" \
    "${graph[@]/#/--graph=}" --out "$5" --device "$device" --num-threads 1 "${part[@]}" "${@:6}" :then: "${combine[@]}" \
    python3 -m steps.score --decode "$5" --data "$data/$4" "${as_classes[@]}"
}

# Declares the export of the model $1 that sherpa-onnx reads where that is not the usual one: of models that hear samples.
export_for_sherpa() {
  [[ $sherpa == true && ${hears:-} == samples ]] || return 0
  sherpa_export=export_samples
  task 7 "export_$1_samples" --needs "$exp/$1/model.json" --parallel --makes "$exp/$1/$sherpa_export/SHA256SUMS" -- \
    python3 -m steps.export_model --model "$exp/$1" --layout samples --out "$exp/$1/$sherpa_export"
}

# Declares decoding of the model $1 and of its export on every test set, and in noise.
score_model() {
  local set dir=$exp/$1
  for set in "${tests[@]}"; do
    score "decode_$1_$set" "$dir" model.json "$set" "$dir/decode_$set"
    score "decode_$1_${set}_onnx" "$dir/export" SHA256SUMS "$set" "$dir/decode_${set}_onnx"
    [[ $sherpa == false ]] ||
      score "decode_$1_${set}_sherpa" "$dir/$sherpa_export" SHA256SUMS "$set" "$dir/decode_${set}_sherpa" --runtime sherpa-onnx
    [[ -z ${stress// /} ]] || stress_task "$1" "$set"
    ! is_streaming "$1" || score_chunks "$1" "$set"
  done
}

# Declares decoding of the exported model $1 on set $2 with noise.
stress_task() {
  local levels=() out=$exp/$1/decode_${2}_noise
  read -ra levels <<<"$stress"
  scores+=("$out/noise.json")
  task 8 "noise_${1}_$2" --needs "$exp/$1/export/SHA256SUMS" "$data/$2/wav.scp" "$data/$2/text" --conf "$decode" \
    --makes "$out/noise.json" --parallel -- python3 -m steps.stress --model "$exp/$1/export" --data "$data/$2" \
    --snr-db "${levels[@]}" --config "$decode" --seed "$seed" --out "$out"
}

# Declares what writes the transcripts of unlabelled sets and puts these sets and the training set together; the dev set is
# transcribed, too, so that the errors of such transcripts are known.
transcript_tasks() {
  ((${#unlabelled[@]})) || return 0
  local set by needs options copies=() joined=("$data/$train_set")
  [[ -n $transcribe_with ]] || usage_error "unlabelled_sets: name the recogniser that transcribes them with transcribe_with"
  for set in $unlabelled_sets; do
    [[ " $train_set $dev_set $test_sets " != *" $set "* ]] || usage_error "unlabelled_sets: $set is train_set, dev_set or in test_sets, too"
  done
  ((labelled_copies == 1)) || copies=(--copies "$labelled_copies")
  transcripts=$(conf_file "$transcripts")
  for set in $unlabelled_sets "$dev_set"; do
    needs=() options=(${transcribe_check:+--agree "$data/transcripts/$set.check/text"})
    for by in with ${transcribe_check:+check}; do
      hear_task "$set" "$by"
      needs+=("$data/transcripts/$set.$by/text")
    done
    if [[ $set == "$dev_set" ]]; then options+=(--truth "$dev"); else joined+=("$data/transcripts/$set"); fi
    heard+=("$data/transcripts/$set/transcripts.json")
    task 0 "filter_$set" --needs "${needs[@]}" --conf "$transcripts" --makes "$data/transcripts/$set"/{text,transcripts.json} -- \
      python3 local/filter_transcripts.py --data "$data/transcripts/$set.with" --options "$transcripts" "${options[@]}" --out "$data/transcripts/$set"
  done
  sets[0]=$data/${train_set}_all train=$data/${train_set}_all_sp
  task 0 join_labelled --needs "${joined[@]/%//text}" --makes "${sets[0]}/text" "${sets[0]}/wav.scp" -- \
    python3 utils/combine_data_dir.py "${sets[0]}" "${joined[@]}" "${copies[@]}"
}

# Declares the transcribing of set $1 by transcribe_$2.
hear_task() { # SET with|check
  local by=transcribe_$2 out=$data/transcripts/$1.$2
  task 0 "hear_$1_$2" --needs "$data/$1/wav.scp" "${!by}" --makes "$out/text" --parallel -- \
    "JOB=1:{nj}" python3 -m steps.transcribe_data --model "${!by}" --data "$data/$1" --out "$out" --shard JOB --num-shards "{nj}" \
    --num-threads 1 --device "$device" ${transcribe_language:+--language "$transcribe_language"} :then: \
    python3 utils/combine_data_dir.py "$out" --parts "{nj}"
}
