# shellcheck shell=bash disable=SC2034
# AN4, spelled words and numbers over a microphone: the real-speech recipe. What the variables mean: run.sh.

# corpus_dir: a folder or an4_sphere.tar.gz; empty: fetched (64 MB).
prepare="python3 local/prepare_an4.py --corpus-dir \$corpus_dir"
train_set=train
dev_set=dev             # seven held-out training speakers
test_sets="test"
speeds="0.9 1.0 1.1"
sherpa=true             # requirements-sherpa.txt
lexicon=true            # prepare_an4.py writes words.txt

features=features.yaml
tokenizer=tokenizer.yaml
decode=decode.yaml

# conformer, rnn, dnn, transducer on conformers; bits: the conformer teacher in few; small: transducers for a size. One folder of
# models for each: AN4_NET=rnn ./run.sh --recipe an4 --workdir an4_rnn
_net=$(choice AN4_NET conformer rnn dnn transducer bits small)
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
"
if [[ $_net == transducer ]]; then
  compare="transducer_kd:transducer,transducer_kd:student_kd"
  chain="
teacher                  -                    train_teacher    teacher.yaml
student_kd               teacher              distill_student  student.yaml
transducer               -                    distill_student  transducer_student.yaml
transducer_kd            teacher              distill_student  transducer_student.yaml
transducer_kd_prune      transducer_kd        prune_model      student_prune.yaml
transducer_kd_int8       transducer_kd        quantize_model   int8.yaml
transducer_kd_prune_int8 transducer_kd_prune  quantize_model   int8.yaml
"
elif [[ $_net == bits ]]; then
  compare="teacher_4bit:teacher,teacher_2bit:teacher,teacher_ternary:teacher,teacher_1bit:teacher"
  chain="
teacher          -        train_teacher   teacher.yaml
teacher_4bit     teacher  quantize_model  bits4.yaml
teacher_2bit     teacher  quantize_model  bits2.yaml
teacher_ternary  teacher  quantize_model  ternary.yaml
teacher_1bit     teacher  quantize_model  bits1.yaml
"
elif [[ $_net == small ]]; then
  teachers="transducer_teacher"
  compare="transducer_4bit:transducer,transducer_100kb:transducer,small_6bit:small,small_64kb:small"
  chain="
transducer_teacher  -                   train_teacher    recipes/an4_streaming/conf/transducer_teacher.yaml
transducer          transducer_teacher  distill_student  transducer_lattice.yaml
transducer_4bit     transducer          quantize_model   bits4.yaml
transducer_100kb    transducer          quantize_model   kb100.yaml
small               transducer_teacher  distill_student  small_lattice.yaml
small_6bit          small               quantize_model   bits6.yaml
small_64kb          small               quantize_model   kb64.yaml
"
elif [[ $_net != conformer ]]; then
  chain="
teacher               -                 train_teacher    ${_net}_teacher.yaml
student               -                 distill_student  ${_net}_student.yaml
student_kd            teacher           distill_student  ${_net}_student.yaml
student_kd_prune      student_kd        prune_model      student_prune.yaml
student_kd_int8       student_kd        quantize_model   int8.yaml
student_kd_prune_int8 student_kd_prune  quantize_model   int8.yaml
"
fi
