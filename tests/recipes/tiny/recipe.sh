# shellcheck shell=bash disable=SC2034
# A made-up language of whistles, for the tests: every stage and every kind of model in about a minute.

prepare="python3 tests/recipes/tiny/prepare.py"
train_set=train
dev_set=dev
test_sets="test"
speeds="0.9 1.0 1.1"
sherpa=true             # requirements-sherpa.txt
lexicon=true            # prepare.py writes words.txt

features=features.yaml
tokenizer=tokenizer.yaml
decode=decode.yaml

teachers="teacher"
compare="student_kd:student"
# name                parent            step             conf
chain="
teacher               -                 train_teacher    teacher.yaml
student               -                 distill_student  student.yaml
student_kd            teacher           distill_student  student.yaml
teacher_prune         teacher           prune_model      teacher_prune.yaml
student_kd_prune      student_kd        prune_model      student_prune.yaml
student_kd_sparse     student_kd        prune_model      sparse.yaml
student_kd_lowrank    student_kd        prune_model      lowrank.yaml
teacher_int8          teacher           quantize_model   int8.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   int8.yaml
"
