# shellcheck shell=bash disable=SC2034
# AN4 from Whisper's encoder: with a CTC output layer, then smaller; or as a teacher of states. What the variables mean: run.sh.

# hub_model: a folder of Whisper, of transformers or CTranslate2. corpus_dir: a folder or an4_sphere.tar.gz; empty: fetched.
prepare="python3 local/prepare_an4.py --corpus-dir \$corpus_dir"
train_set=train
dev_set=dev             # seven held-out training speakers
test_sets="test"
lexicon=true
tokenizer=tokenizer.yaml

_kind=$(choice AN4_WHISPER small states)
if [[ $_kind == small ]]; then
  speeds="1.0"
  features=samples.yaml   # what Whisper hears
  teachers="tuned"
  compare="tuned_short:tuned,student_kd:tuned_short"
  # name            parent       step             conf
  chain="
big               -            import_model     hub.yaml
head              big          train_teacher    head.yaml
tuned             head         train_teacher    tuned.yaml
tuned_int8        tuned        quantize_model   quantize.yaml
tuned_4bit        tuned        quantize_model   bits4.yaml
tuned_short       tuned        prune_model      short.yaml
tuned_short_int8  tuned_short  quantize_model   quantize.yaml
student_kd        tuned        distill_student  student_kd.yaml
student_kd_int8   student_kd   quantize_model   quantize.yaml
"
# AN4_WHISPER=states: the student of recipes/an4 without a teacher, and with Whisper's states, stored.
else
  speeds="0.9 1.0 1.1"
  teachers=""
  store_teaching=true     # conf/label.yaml
  compare="student_states:student"
  chain="
whisper         -        import_model     hub.yaml
student         -        distill_student  recipes/an4/conf/student.yaml
student_states  whisper  distill_student  student_states.yaml
"
fi
