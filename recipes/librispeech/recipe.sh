# shellcheck shell=bash disable=SC2034
# LibriSpeech, read English books, in three sizes. What the variables mean: run.sh.

# mini, 100 or 960; one folder of data and models per size: LIBRISPEECH_SIZE=100 ./run.sh --recipe librispeech --workdir ls100
_size=$(choice LIBRISPEECH_SIZE mini 100 960)
prepare="python3 local/prepare_librispeech.py --size $_size --corpus-dir \$corpus_dir --unlabelled \$unlabelled_sets --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev
test_sets="test_clean test_other"
speeds="0.9 1.0 1.1"
tokenizer=bpe.yaml
_teacher=small_conformer.yaml
_student=tiny_conformer.yaml
case $_size in
  mini) test_sets="test" tokenizer=tokenizer.yaml _teacher=teacher.yaml _student=student.yaml ;;
  960) speeds="1.0" _teacher=large_conformer.yaml ;;
esac

teachers="teacher"
compare="student_kd:student"
# name                parent            step             conf
chain="
teacher               -                 train_teacher    $_teacher
student               -                 distill_student  $_student
student_kd            teacher           distill_student  $_student
student_kd_prune      student_kd        prune_model      prune.yaml
student_kd_int8       student_kd        quantize_model   quantize.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   quantize.yaml
"
