# shellcheck shell=bash disable=SC2034
# Smart-home commands spoken by espeak-ng: the default recipe. What the variables mean: run.sh.
extra_requirements=requirements-home.txt

prepare="python3 local/prepare_home.py"
train_set=train
dev_set=dev
test_sets="test"
speeds="1.0"            # the voices differ in pace already
lexicon=true            # prepare_home.py writes words.txt
stress=                 # no noisy test sets: they would take another minute

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
student_kd_int8       student_kd        quantize_model   int8.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   int8.yaml
student_kd_4bit       student_kd        quantize_model   bits4.yaml
student_kd_2bit       student_kd        quantize_model   bits2.yaml
"
