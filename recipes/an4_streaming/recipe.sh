# shellcheck shell=bash disable=SC2034
# AN4 while it is spoken: students that hear chunks of 320 ms, beside one of whole utterances. What the variables mean: run.sh.

# corpus_dir: a folder or an4_sphere.tar.gz; empty: fetched (64 MB).
prepare="python3 local/prepare_an4.py --corpus-dir \$corpus_dir"
train_set=train
dev_set=dev             # seven held-out training speakers
test_sets="test"
speeds="0.9 1.0 1.1"
sherpa=true             # requirements-sherpa.txt
lexicon=true

streaming="student_turned student student_kd student_kd_prune student_kd_int8"
chunks="160 320 640"
streaming_reference=teacher

# conformer: CTC, dnn: feed-forward nets, or transducer; one folder of models for each:
# AN4_NET=transducer ./run.sh --recipe an4_streaming --workdir ...
_net=$(choice AN4_NET conformer dnn transducer)
teachers="teacher"
compare="student_kd:student,student_kd:student_whole_kd,student_turned:student_whole"
# student_whole and student_whole_kd hear whole utterances, alone and taught; student_turned goes on from the weights of the
# first, in chunks; student and student_kd are trained in chunks from the start, alone and taught.
# name                parent         step             conf
chain="
teacher               -              train_teacher    recipes/an4/conf/teacher.yaml
student_whole         -              train_teacher    recipes/an4/conf/student.yaml
student_turned        student_whole  train_teacher    turned.yaml
student_whole_kd      teacher        distill_student  recipes/an4/conf/student.yaml
student               -              distill_student  student.yaml
student_kd            teacher        distill_student  student.yaml
student_kd_prune      student_kd     prune_model      student_prune.yaml
student_kd_int8       student_kd     quantize_model   recipes/an4/conf/int8.yaml
"
if [[ $_net == transducer ]]; then
  compare="transducer_kd:transducer,transducer_kd:student_kd,transducer_lattice:transducer_kd"
  streaming="student_kd transducer transducer_kd transducer_lattice transducer_kd_prune transducer_kd_int8"
  chain="
teacher             -                   train_teacher    recipes/an4/conf/teacher.yaml
student_kd          teacher             distill_student  student.yaml
transducer          -                   distill_student  transducer_student.yaml
transducer_kd       teacher             distill_student  transducer_student.yaml
transducer_kd_prune transducer_kd       prune_model      student_prune.yaml
transducer_kd_int8  transducer_kd       quantize_model   recipes/an4/conf/int8.yaml
transducer_teacher  -                   train_teacher    transducer_teacher.yaml
transducer_lattice  transducer_teacher  distill_student  transducer_lattice.yaml
"
elif [[ $_net == dnn ]]; then
  compare="student_kd:student,student:student_whole"
  streaming="student student_kd student_kd_int8"
  chain="
teacher          -           train_teacher    recipes/an4/conf/dnn_teacher.yaml
student_whole    -           train_teacher    recipes/an4/conf/dnn_student.yaml
student          -           distill_student  dnn_student.yaml
student_kd       teacher     distill_student  dnn_student.yaml
student_kd_int8  student_kd  quantize_model   recipes/an4/conf/int8.yaml
"
fi
