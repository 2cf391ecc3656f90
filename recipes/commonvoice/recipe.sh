# shellcheck shell=bash disable=SC2034
# Mozilla Common Voice, any language: read sentences by many people. What the variables mean: run.sh.

# corpus_dir: the folder of one language, or its archive. The language stands in conf/prepare.yaml.
prepare="python3 local/prepare_commonvoice.py --corpus-dir \$corpus_dir --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev
test_sets="test"
speeds="0.9 1.0 1.1"
tokenizer=tokenizer.yaml

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
