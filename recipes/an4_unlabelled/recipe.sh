# shellcheck shell=bash disable=SC2034
# AN4 with the transcripts of five speakers; a recogniser from elsewhere transcribes the audio of 62. Variables: run.sh.

prepare="python3 local/prepare_an4.py --labelled-speakers 5 --corpus-dir \$corpus_dir"
train_set=train
dev_set=dev
test_sets="test"
unlabelled_sets="extra"
label_with=whisper      # a folder of Whisper, as transformers or CTranslate2 reads it: README.md
labels=labels.yaml
speeds="0.9 1.0 1.1"
lexicon=true
stress=""
extra_requirements=requirements-whisper.txt

teachers=""
# name                parent  step             conf
chain="
student               -       distill_student  student.yaml
student_int8          student quantize_model   int8.yaml
"
