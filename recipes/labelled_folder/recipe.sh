# shellcheck shell=bash disable=SC2034
# Short files whose label stands in their path: commands, keywords, digits. What the variables mean: run.sh.

# corpus_dir: the folder. Behind prepare_labelled_folder.py, --pattern tells how the paths of its files are built, such as
# --pattern {speaker}/{take}_{label}; without it: {label}/{speaker}_nohash_{take}, the layout of Speech Commands.
prepare="python3 local/prepare_labelled_folder.py --corpus-dir \$corpus_dir --unlabelled \$unlabelled_sets --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev             # speakers of its own
test_sets="test"
speeds="0.9 1.0 1.1"
lexicon=true            # only words of the labels can come out in the lexicon column
one_of=true             # each file is one label: the one_of column chooses among them
classes=true            # accuracy, precision, recall, and what was taken for what
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
