# shellcheck shell=bash disable=SC2034,SC2154
# --sizes auto: settings of the trainings are chosen for the corpus, between the features and the tokenizer. Behind utils/chain.sh.

declare -a sizes_lines=() sizes_files=() sizes_bases=()

# Checks the settings; with --sizes auto, takes what the chain trains from files below $exp/sizes, which choose_sizes declares.
use_sizes() {
  [[ $sizes =~ ^(recipe|auto)$ ]] || usage_error "--sizes is recipe or auto, not '$sizes'"
  [[ -z $time_budget || $time_budget =~ ^[1-9][0-9]{0,5}[smh]$ ]] ||
    usage_error "--time-budget is a number of seconds, minutes or hours, such as 30m, not '$time_budget'"
  [[ $sizes == auto ]] || { [[ -z $time_budget ]] || usage_error "--time-budget is for --sizes auto"; return 0; }
  ((processes * nodes == 1)) || usage_error "--sizes auto counts updates of one process; with several, take the files it writes and change epochs"
  local i role seen_teacher='' seen_student='' auto="--sizes auto"
  for i in "${!models[@]}"; do
    read_step "${steps[$i]}"
    case "${steps[$i]} ${parents[$i]}" in
      train_teacher\ -)
        [[ -z $seen_teacher ]] || usage_error "$auto: $seen_teacher and ${models[$i]} would be the same teacher"
        role=teacher seen_teacher=${models[$i]}
        ;;
      distill_student\ *)
        role=taught && [[ ${parents[$i]} != - ]] || role=student
        [[ -z $seen_student || $seen_student == "${confs[$i]}" ]] ||
          usage_error "$auto: students of $seen_student and ${confs[$i]} would be the same net; the chain may have one"
        seen_student=${confs[$i]}
        ;;
      prune_model\ *) role=recover ;;
      quantize_model\ *)
        trains "${confs[$i]}" || continue
        usage_error "$auto: ${models[$i]} trains while it is quantized, for which conf/sizes.yaml has nothing"
        ;;
      *) usage_error "$auto: ${models[$i]}: sizes are chosen for models that begin with fresh weights" ;;
    esac
    use_size "$i" "$role"
  done
  [[ $store_teaching == false ]] || grep -q '^hidden_layers: \[[^]]' "$(conf_file label.yaml)" ||
    usage_error "$auto: its students match hidden states; store them (hidden_layers: [-1] in label.yaml), or leave out --store-teaching"
  ((${#sizes_lines[@]})) || usage_error "$auto: the chain trains nothing"
  tokenizer=$exp/sizes/tokenizer.yaml
}

# Names the settings file of the model at place $1 of the chain, of role $2, and keeps its line for choose_sizes.
use_size() {
  local file=$exp/sizes/${2/taught/student}.yaml base='' key
  if [[ $2 != recover ]]; then
    for key in head inherit max_look_ahead_ms normalisation quantization; do
      ! has_section "$key" "${confs[$1]}" || usage_error "--sizes auto: ${confs[$1]}: $key would be lost"
    done
    # in a line of its own, or in one with other sizes
    ! has_line '^[^#]*[ {,]streaming:' "${confs[$1]}" || usage_error "--sizes auto: ${confs[$1]}: streaming would be lost"
  fi
  [[ $2 != recover ]] || { file=$exp/sizes/recover_${models[$1]}.yaml base=${confs[$1]}; sizes_bases+=("$base"); }
  sizes_lines+=("--line=$2:${models[$1]}:$base")
  [[ " ${sizes_files[*]} " == *" $file "* ]] || sizes_files+=("$file")
  confs[$1]=$file
}

# Declares the choice.
choose_sizes() {
  [[ $sizes == auto ]] || return 0
  local table
  table=$(conf_file sizes.yaml)
  task 2 sizes --needs "$train/feats.scp" "$train/utt2num_frames" "${sets[0]}/text" ${after_prepare:+@after_prepare} \
    --conf "$table" "$features" "${sizes_bases[@]}" --makes "${sizes_files[@]}" "$tokenizer" --tells "$exp/sizes/summary.txt" \
    --runner "$heavy --gpu $ngpu" -- python3 -m steps.choose_sizes --data "$train" --text "${sets[0]}" --features "$features" \
    "${sizes_lines[@]}" ${time_budget:+--time-budget "$time_budget"} --config "$table" "${common[@]}" --out "$exp/sizes"
}
