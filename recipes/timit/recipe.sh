# shellcheck shell=bash disable=SC2034
# TIMIT, phone recognition: 48 phones, scored as 39. What the variables mean: run.sh.

# corpus_dir: the LDC's folder, LDC93S1.
prepare="python3 local/prepare_timit.py --corpus-dir \$corpus_dir --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev             # the 50 speakers that are commonly used
test_sets="test"        # the core test set
speeds="0.9 1.0 1.1"
tokenizer=tokenizer.yaml
decode=decode.yaml      # from 48 to 39 phones; the rate is PER

teachers="teacher"
compare="student_kd:student"
# name                parent            step             conf
chain="
teacher               -                 train_teacher    tiny_conformer.yaml
student               -                 distill_student  student.yaml
student_kd            teacher           distill_student  student.yaml
student_kd_prune      student_kd        prune_model      prune.yaml
student_kd_int8       student_kd        quantize_model   quantize.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   quantize.yaml
"
