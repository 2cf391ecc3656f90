#!/usr/bin/env bash
# From a corpus to small, measured speech recognisers: numbered stages that go on from the files on disk.
#
#   ./run.sh                                         the default recipe, set-up included
#   ./run.sh --recipe an4 --corpus-dir DIR --nj 8    another one
#   ./run.sh --stage 5 --stop-stage 5 --dry-run      what one stage would do, and why
set -euo pipefail
called_from=$PWD && cd "$(dirname "${BASH_SOURCE[0]}")"
. utils/env.sh
. utils/parse_options.sh && . utils/settings.sh && . utils/tasks.sh && . utils/chain.sh && . utils/sizes.sh

# Settings. Every one is an option; recipe.sh may set them too; the command line wins.
stage=0                  # first stage to look at
stop_stage=9             # last stage to look at
recipe=home              # a name in recipes/, or a folder that holds recipe.sh
corpus_dir=              # where the corpus is, for recipes that read one
hub_model=               # folder of a model from a hub, for recipes that import one
workdir=                 # data/ and exp/ go below it; empty: here, or in the recipe's folder when that lies elsewhere
force=false              # redo the stages looked at; finished models are moved to <name>.old-1, never deleted
dry_run=false            # only print what would run, and why
cmd=utils/run.py         # job runner, with options for every job
nj=$(env -u OMP_NUM_THREADS nproc) # jobs at a time
decode_nj=1              # parts of each decoding, jobs of one array: for test sets of many hours
trainings=1              # trainings of one stage side by side, for machines with many cores: num_threads each
sizes=recipe             # auto: sizes, updates, batches and units that fit the corpus (conf/sizes.yaml), in exp/<recipe>/sizes
time_budget=             # for all trainings one after the other, such as 30m; with --sizes auto
num_threads=2            # CPU threads of a training; results are the same bytes only with the same number
device=auto              # auto, cpu or cuda
ngpu=1                   # GPUs of a training on each node, a process each; a machine without any does without
processes=1              # processes of a training on each node with --device cpu, num_threads each
nodes=1                  # nodes of a training, on a cluster
seed=0                   # of all random numbers
# What a recipe sets:
prepare=                 # command that writes the data sets; `--out data/<recipe>` is appended
train_set=train          # its sets
dev_set=dev              # held-out training speakers: settings are chosen on it
test_sets="test"         # one or more; only scored
unlabelled_sets=         # sets that prepare writes without transcripts: transcribe_with writes them, and they join the training set
transcribe_with=              # folder of the recogniser that transcribes them: whatever steps.transcribe_data runs
transcribe_command=           # or a program that does, run in this folder, without a shell: steps.transcribe_data --command
transcribe_words=             # word list of the recogniser, one word per line: only these come out
transcribe_check=             # folder of a second one, whose transcripts `readings` and `max_disagreement` compare
transcribe_language=          # what is spoken, for recognisers that would guess it
rounds=1                 # noisy student: so many whole runs, in <workdir>/round1, round2, ..., each transcribed by the one before
round_model=             # the model whose export transcribes for the next round; empty: the last of the chain
labelled_copies=1        # times that the training set joins them: its weight beside theirs
transcripts=pseudo_labels.yaml # how transcripts are brought into form and filtered, in the same places as features
cut_with=                # folder of a model that cuts the training set into pieces of a few words, which join it
cut_max_s=1.5            # longest piece, in seconds
speeds="0.9 1.0 1.1"     # copies of the training set at these speeds
lexicon=false            # true: prepare writes words.txt, and decoding has a column limited to these words
one_of=false             # true: prepare writes labels.txt, and decoding has a column in which each recording is one of these
compress=false           # true: features take a quarter of the space and lose a little precision
features=features.yaml   # settings files: in the recipe's conf/, else in conf/
tokenizer=tokenizer.yaml # units of text, looked for in the same places
decode=decode.yaml       # settings of decoding, and what error rates count, in the same places
lm=                      # settings of a language model (lm.yaml, in the same places): exports get its graph, decoding its column
lm_text=                 # a text file or finished .arpa file for it, in the same places; empty: the training transcripts
spellings=               # spellings of words for it, `word token token ...` lines, in the same places; else the tokenizer's
classes=false            # true: transcripts are commands; accuracy, precision, recall, F1 and what was taken for what
stress="20 10 5 0"       # test sets with noise this many dB below the speech, too; empty: none
streaming=               # models of the chain that run in chunks: exported, decoded and timed with each length in chunks, too
chunks="160 320 640"     # lengths of their chunks in ms; whole utterances stand beside them
streaming_reference=     # a model of whole utterances that tells where words end: how late those of `streaming` are; empty: not timed
sherpa=false             # true: exported files are decoded by sherpa-onnx, too, and the texts compared
teachers=teacher         # models that teach pruned ones while they recover; of several the first one sets the frames
store_teaching=false     # true: a teacher labels the training set once, as label.yaml says, and students learn from the labels
chain=                   # lines `name parent step conf`: the models, each made from earlier ones
compare=                 # more differences in the report: A:B,C:D
ships=                   # the model that the report begins with; empty: the last of the chain
after_prepare=           # commands run like stages, after stage 0
after_tokenizer=         # after stage 2
after_score=             # after stage 8
extra_requirements=      # more requirements files to install
# End of settings
parse_options run.sh "$@"
find_recipe "$recipe"
read_recipe
apply_options && read_chain
[[ -n $workdir || $recipe_dir != /* ]] || workdir=$recipe_dir
data=${workdir:+${workdir%/}/}data/$name exp=${workdir:+${workdir%/}/}exp/$name
features=$(conf_file "$features") tokenizer=$(conf_file "$tokenizer") decode=$(conf_file "$decode")
for _name in lm lm_text spellings; do [[ -z ${!_name} ]] || printf -v "$_name" %s "$(conf_file "${!_name}")"; done
read -ra tests <<<"$test_sets"
sets=("$data/$train_set" "$data/$dev_set" "${tests[@]/#/$data/}") train=$data/${train_set}_sp dev=$data/$dev_set
read -ra unlabelled <<<"$unlabelled_sets" && unlabelled=("${unlabelled[@]/#/$data/}")
check_settings
((rounds == 1)) || run_rounds "$@"
use_sizes
heavy="--num-threads $num_threads --mem 4G --time 24:00:00" # of a cluster; others get the defaults in conf/slurm.conf
common=(--seed "$seed" --device "$device" --num-threads "$num_threads")
[[ $dry_run == true ]] || install_requirements # nothing needs to be installed to see what would run

# 0 prepare     corpus -> data/<recipe>/<set>/{wav.scp,text,utt2spk,...}, checked
expand "$prepare"
task 0 prepare --needs ${corpus_dir:+"$corpus_dir"} --conf "${yamls[@]}" --lists "$data/corpus_files.tsv" \
  --makes "${sets[@]/%//wav.scp}" "${sets[@]/%//text}" "${unlabelled[@]/%//wav.scp}" "${word_list[@]}" "${label_list[@]}" -- \
  "${words[@]}" --out "$data" :then: python3 utils/validate_data_dir.py --audio true "${sets[@]}" \
  ${unlabelled:+:then: python3 utils/validate_data_dir.py --audio true --text false "${unlabelled[@]}"
    :then: python3 local/leaks.py --labelled "${sets[@]}" --unlabelled "${unlabelled[@]}"}
extra_task 0 after_prepare "${sets[@]/%//text}"
transcript_tasks
spoken=${sets[0]} # what is trained on
cut_task

# 1 features    data folders -> feats.scp; copies of the training set at other speeds; its mean and deviation
features() { # NAME DIR SOURCE, commands that come before
  task 1 "features_$1" --needs "$3/wav.scp" "$3/text" ${after_prepare:+@after_prepare} --conf "$features" \
    --makes "$2/feats.scp" "$2/utt2num_frames" "$2/cmvn.json" -- "${@:4}" \
    "JOB=1:{nj}" python3 -m steps.extract_features --data "$2" --config "$features" --out "$2/feats" --shard JOB \
    --num-shards "{nj}" --compress "$compress" :then: \
    python3 -m steps.combine_features --data "$2" --feats "$2/feats" --num-shards "{nj}" --cmvn "$2/cmvn.json"
}
features train "$train" "$spoken" \
  python3 utils/perturb_data_dir_speed.py --speeds "$speeds" "$spoken" "$train" :then:
for set in "${sets[@]:1}"; do features "${set##*/}" "$set" "$set"; done

# 2 tokenizer   training transcripts -> characters or subwords; with --sizes auto, first the settings of all trainings
choose_sizes
task 2 tokenizer --needs "${sets[0]}/text" ${after_prepare:+@after_prepare} --conf "$tokenizer" \
  --makes "$data/tokenizer/tokenizer.model" "$data/tokenizer/tokens.txt" -- \
  python3 -m steps.train_tokenizer --data "${sets[0]}" --config "$tokenizer" --out "$data/tokenizer"
extra_task 2 after_tokenizer "$data/tokenizer/tokens.txt"
lm_task

# 3 teacher     labelled data -> teacher
# 4 student     the same small net twice: alone, and with the teacher
# 5 prune       structured, low rank, sparse; then recovery
# 6 quantize    8 to 1 bits (which step belongs to which stage, and which of them train: the table in utils/chain.sh)
for i in "${!models[@]}"; do make_model "$i"; store_labels "$i"; done

# 7 export      every model folder -> ONNX and its tokens, compared with the model; SHA256SUMS lists what ships
for model in "${models[@]}"; do export_task "$model"; done

# 8 score       every model folder and every exported file, on every test set, and in noise
for model in "${models[@]}"; do score_model "$model"; done
extra_task 8 after_score "${scores[@]}"

# 9 report      speed of every exported file; one page
exports=("${models[@]/#/$exp/}") && exports=("${exports[@]/%//export}")
task 9 benchmark --needs "${exports[@]/%//SHA256SUMS}" "$data/${tests[0]}/feats.scp" --makes "$exp/benchmark.json" -- \
  python3 -m steps.benchmark --models "${exports[@]}" --data "$data/${tests[0]}" --out "$exp/benchmark.json"
task 9 report --needs "${scores[@]}" "${heard[@]}" "$exp/benchmark.json" ${after_score:+@after_score} \
  --makes "$exp/report"/{report.html,report.md,RESULTS.md,results.json} -- \
  python3 -m steps.report --exp "$exp" --models "${models[@]}" --sets "${tests[@]}" --benchmark "$exp/benchmark.json" \
  --train "${sets[0]}" ${ships:+--ships "$ships"} ${compare:+--compare "$compare"} "${heard[@]/#/--transcripts=}" --recipe "$name" --seed "$seed" --out "$exp/report"

exec python3 -I -S utils/stage.py --exp "$exp" --workdir "$workdir" --cmd "$cmd" --nj "$nj" --stage "$stage" \
  --stop-stage "$stop_stage" --force "$force" --dry-run "$dry_run" --show "$exp/report/report.md" "${plan[@]}"
