# shellcheck shell=bash disable=SC2034
# AISHELL-1, Mandarin characters. What the variables mean: run.sh.

# corpus_dir: data_aishell, or its archive; empty: fetched from OpenSLR (15 GB).
prepare="python3 local/prepare_aishell.py --corpus-dir \$corpus_dir --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev
test_sets="test"
speeds="0.9 1.0 1.1"
tokenizer=tokenizer.yaml # characters, about 4,200
decode=decode.yaml       # the rate is CER

teachers="teacher"
compare="student_kd:student"
# name                parent            step             conf
chain="
teacher               -                 train_teacher    small_conformer.yaml
student               -                 distill_student  tiny_conformer.yaml
student_kd            teacher           distill_student  tiny_conformer.yaml
student_kd_prune      student_kd        prune_model      prune.yaml
student_kd_int8       student_kd        quantize_model   quantize.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   quantize.yaml
"
