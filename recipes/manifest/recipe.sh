# shellcheck shell=bash disable=SC2034
# Your recordings, listed in JSON lines, CSV or TSV: what NeMo and Hugging Face users have. What the variables mean: run.sh.

# corpus_dir: the folder that holds train.jsonl, dev.jsonl, test.jsonl, or one manifest to split (local/prepare_manifest.py).
prepare="python3 local/prepare_manifest.py --corpus-dir \$corpus_dir --unlabelled \$unlabelled_sets --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev             # speakers of its own
test_sets="test"
speeds="0.9 1.0 1.1"
lexicon=false           # true: the words of train and dev are all that can be said
tokenizer=tokenizer.yaml

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
