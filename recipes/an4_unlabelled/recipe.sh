# shellcheck shell=bash disable=SC2034
# AN4 with the transcripts of five speakers only; recognisers transcribe the audio of 62 others. Variables: run.sh.

prepare="python3 local/prepare_an4.py --labelled-speakers 5 --corpus-dir \$corpus_dir"
train_set=train
dev_set=dev
test_sets="test"
speeds="0.9 1.0 1.1"
lexicon=true
stress=""
transcripts=transcripts.yaml
extra_requirements=requirements-whisper.txt
# Without transcripts of the others: a student, and a teacher that can write some. name parent step conf
teachers="teacher"
chain="
teacher  -  train_teacher    five_teacher.yaml
student  -  distill_student  five_student.yaml
"
# AN4_LABELS=heard ./run.sh ... --transcribe-with FOLDER: a student of all speakers, by what was heard of 62 of them.
_labels=$(choice AN4_LABELS five heard)
if [[ $_labels == heard ]]; then
  unlabelled_sets="extra"
  teachers=""
  chain="
student  -  distill_student  recipes/an4/conf/student.yaml
"
fi
