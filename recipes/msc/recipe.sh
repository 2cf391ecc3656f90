# shellcheck shell=bash disable=SC2034
# Malayalam Speech Corpus, sentences read by volunteers in their browsers. What the variables mean: run.sh.
extra_requirements=requirements-av.txt # Opus in WebM

# corpus_dir: the folder with speech.tsv, sentences.tsv and audio/.
prepare="python3 local/prepare_msc.py --corpus-dir \$corpus_dir --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev
test_sets="test"
speeds="1.0"            # stretched voices (augment.vtlp) instead of copies: a third of the time
stress=                 # no noisy test sets: the recordings have noise of their own
tokenizer=tokenizer.yaml
decode=decode.yaml      # CER beside WER
lm=lm.yaml              # of characters

teachers="teacher"
compare="student_kd:student"
# name                parent            step             conf
chain="
teacher               -                 train_teacher    teacher.yaml
student               -                 distill_student  student.yaml
student_kd            teacher           distill_student  student.yaml
student_kd_prune      student_kd        prune_model      prune.yaml
teacher_int8          teacher           quantize_model   quantize.yaml
student_kd_int8       student_kd        quantize_model   quantize.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   quantize.yaml
"
