# shellcheck shell=bash disable=SC2034
# yesno, one man saying yes and no in Hebrew: the smallest real corpus there is. What the variables mean: run.sh.

# corpus_dir: waves_yesno, or its archive; empty: fetched from OpenSLR (5 MB).
prepare="python3 local/prepare_yesno.py --corpus-dir \$corpus_dir --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev
test_sets="test"
speeds="0.9 1.0 1.1"
lexicon=true            # prepare_yesno.py writes words.txt
features=features.yaml  # 8 kHz
tokenizer=tokenizer.yaml

teachers="teacher"
compare="student_kd:student"
# name                parent            step             conf
chain="
teacher               -                 train_teacher    teacher.yaml
student               -                 distill_student  student.yaml
student_kd            teacher           distill_student  student.yaml
student_kd_prune      student_kd        prune_model      prune.yaml
student_kd_int8       student_kd        quantize_model   quantize.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   quantize.yaml
"
