# shellcheck shell=bash disable=SC2034,SC2154
# The tasks that run.sh declares, except those of the chain. Behind utils/settings.sh.

declare -a plan=() heard=() scores=()
sherpa_export="export"

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
  local source=(--data "${sets[0]}") needs=("${sets[0]}/text") words=("${word_list[@]}") held_out=("${sets[@]:2}")
  if [[ $lm_text == *.arpa ]]; then
    source=(--arpa "$lm_text") needs=("$lm_text") words=()
  elif [[ -n $lm_text ]]; then
    source=(--text "$lm_text" --held-out "${held_out[@]}") needs=("$lm_text" "${held_out[@]/%//text}")
  fi
  source+=(--tokenizer "$data/tokenizer")
  task 2 lm --needs "${needs[@]}" "$dev/text" "${words[@]}" "$data/tokenizer/tokenizer.model" --conf "$lm" --makes "$data/lm/lm.arpa" -- \
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
  local as_classes=() array=() part=() combine=() graph=() beside=(--parallel)
  # alone, because it measures its speed, which neighbours would take away
  [[ " ${*:6} " != *" --streaming "* ]] || beside=()
  [[ -z $lm ]] || graph=("$dir/export")
  [[ $classes == false ]] || as_classes=(--classes true)
  if ((decode_nj > 1)); then
    array=("JOB=1:$decode_nj") part=(--shard JOB --num-shards "$decode_nj")
    combine=(python3 -m steps.combine_decodes --data "$data/$4" --decode "$5" --num-shards "$decode_nj" :then:)
  fi
  scores+=("$5/score_greedy.json")
  task 8 "$1" --needs "$2/$3" "$data/$4/feats.scp" "$data/$4/text" "${word_list[@]}" "${label_list[@]}" "${graph[@]/%//SHA256SUMS}" --conf "$decode" \
    --makes "$5/greedy.txt" "$5/score_greedy.json" "${beside[@]}" -- \
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
  if ((${#unlabelled[@]} == 0)); then
    for key in transcribe_{with,command,check,words,language}; do
      [[ -z ${!key} ]] || usage_error "$key is for unlabelled_sets, and there are none"
    done
    ((labelled_copies == 1)) || usage_error "labelled_copies is for unlabelled_sets, and there are none"
    return 0
  fi
  local set by key needs options compares='' copies=() joined=("$data/$train_set")
  [[ -n $transcribe_with || -n $transcribe_command ]] ||
    usage_error "unlabelled_sets: name the recogniser that transcribes them with transcribe_with, or a program with transcribe_command"
  [[ -z $transcribe_with || -z $transcribe_command ]] || usage_error "transcribe_with and transcribe_command: give one of them"
  [[ -z $transcribe_command || -z $transcribe_words$transcribe_language ]] ||
    usage_error "transcribe_command: the program has its own words and language; leave out transcribe_words and transcribe_language"
  for set in $unlabelled_sets; do
    [[ " $train_set $dev_set $test_sets " != *" $set "* ]] || usage_error "unlabelled_sets: $set is train_set, dev_set or in test_sets, too"
  done
  ((labelled_copies == 1)) || copies=(--copies "$labelled_copies")
  transcripts=$(conf_file "$transcripts")
  for key in readings max_disagreement; do
    case $(top_value $key "$transcripts") in
      '' | null | '~' | [Ff]alse | no | off) ;;
      *) compares=$key ;;
    esac
  done
  [[ -z $compares || -n $transcribe_check ]] ||
    usage_error "$transcripts: readings and max_disagreement compare with a second recogniser; name it with transcribe_check"
  [[ -n $compares || -z $transcribe_check ]] ||
    usage_error "transcribe_check: nothing compares what it hears; set max_disagreement or readings in $transcripts"
  for set in $unlabelled_sets "$dev_set"; do
    needs=() options=(${transcribe_check:+--agree "$data/transcripts/$set.check/text"})
    for by in with ${transcribe_check:+check}; do
      hear_task "$set" "$by"
      needs+=("$data/transcripts/$set.$by/text")
    done
    if [[ $set == "$dev_set" ]]; then options+=(--truth "$dev"); else joined+=("$data/transcripts/$set"); fi
    heard+=("$data/transcripts/$set/transcripts.json")
    task 0 "filter_$set" --needs "${needs[@]}" --conf "$transcripts" --makes "$data/transcripts/$set"/{text,wav.scp,transcripts.json} -- \
      python3 local/filter_transcripts.py --data "$data/transcripts/$set.with" --options "$transcripts" "${options[@]}" --out "$data/transcripts/$set"
  done
  sets[0]=$data/${train_set}_all train=$data/${train_set}_all_sp
  task 0 join_labelled --needs "${joined[@]/%//text}" "${joined[@]/%//wav.scp}" ${after_prepare:+@after_prepare} --makes "${sets[0]}/text" "${sets[0]}/wav.scp" -- \
    python3 utils/combine_data_dir.py "${sets[0]}" "${joined[@]}" "${copies[@]}"
}

# Declares the cutting of the training set into pieces of a few words, which join it in training.
cut_task() {
  [[ -n $cut_with ]] || return 0
  spoken=${sets[0]}_cut train=${sets[0]}_cut_sp
  task 0 cut_train --needs "${sets[0]}/text" "${sets[0]}/wav.scp" ${after_prepare:+@after_prepare} "$cut_with" \
    --makes "$spoken/text" "$spoken/wav.scp" -- \
    python3 -m steps.cut_recordings --model "$cut_with" --data "${sets[0]}" --max-s "$cut_max_s" --whole true --out "$spoken"
}

# Declares the transcribing of set $1 by transcribe_$2.
hear_task() { # SET with|check
  local by=transcribe_$2 out=$data/transcripts/$1.$2 who asked=() files=() word
  who=(--model "${!by}") asked=(${transcribe_language:+--language "$transcribe_language"})
  if [[ $2 == with ]]; then
    if [[ -n $transcribe_command ]]; then
      who=(--command "$transcribe_command") asked=()
      # the program's files that it names, so that a change in one is noticed
      for word in $transcribe_command; do [[ ! -f $word ]] || files+=("$word"); done
    fi
    asked+=(${transcribe_words:+--words "$transcribe_words"})
  fi
  task 0 "hear_$1_$2" --needs "$data/$1/wav.scp" ${after_prepare:+@after_prepare} ${!by:+"${!by}"} ${transcribe_words:+"$transcribe_words"} \
    "${files[@]}" --sounds "$data/$1/wav.scp" --makes "$out/text" --parallel -- \
    "JOB=1:{nj}" python3 -m steps.transcribe_data "${who[@]}" --data "$data/$1" --out "$out" --shard JOB --num-shards "{nj}" \
    --num-threads 1 --device "$device" "${asked[@]}" :then: \
    python3 utils/combine_data_dir.py "$out" --parts "{nj}"
}

# One whole run after the other with the options of this one, and ends: the export of each transcribes for the next (noisy
# student: Xie et al. 2020, arXiv:1911.04252; for speech Park et al. 2020, arXiv:2005.09629).
run_rounds() { # the options of run.sh
  local round place=${workdir%/} student=${round_model:-${models[-1]}} teller="" with=() here=$PWD
  [[ -n $unlabelled_sets ]] || usage_error "--rounds is for recipes with unlabelled_sets"
  [[ -n $workdir ]] || usage_error "--rounds $rounds: give --workdir DIR, in which each round has a folder"
  [[ " ${models[*]} " == *" $student "* ]] || usage_error "round_model: no model $student in the chain$(nearest_name "$student" "${models[@]}")"
  ((stop_stage >= 7)) || usage_error "--rounds $rounds: an export transcribes for the next round, so --stop-stage is 7 or later"
  [[ $place == /* ]] || place=$PWD/$place
  for ((round = 1; round <= rounds; round++)); do
    echo "round $round of $rounds: $place/round$round"
    if [[ $dry_run == true && -n $teller && ! -f $teller/SHA256SUMS ]]; then
      echo "would be transcribed by $teller, which round $((round - 1)) makes"
      break
    fi
    with_signals "$called_from" "$here/run.sh" "$@" --rounds 1 --workdir "$place/round$round" "${with[@]}" || exit
    teller=$place/round$round/exp/$name/$student/export
    with=(--transcribe-with "$teller" --transcribe-command "" --transcribe-language "" --transcribe-words "")
  done
  exit 0
}

# Runs a program in a folder and passes on what would end this script. Returns: its status.
with_signals() { # FOLDER PROGRAM OPTION...
  local child status=0 signal
  # of its own group: a signal reaches it once, from here
  set -m
  (cd "$1" && exec "${@:2}") &
  child=$!
  set +m
  # shellcheck disable=SC2064
  for signal in INT TERM HUP; do trap "kill -$signal $child 2>/dev/null" "$signal"; done
  # a signal ends `wait` before the program has ended
  while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done
  trap - INT TERM HUP
  wait "$child" || status=$?
  return "$status"
}
