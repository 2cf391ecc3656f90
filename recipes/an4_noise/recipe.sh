# shellcheck shell=bash disable=SC2034
# AN4 with noise: one small model trained on clean speech, one taught by it with noise added on the fly; both tested clean
# and at 10 dB.

# corpus_dir: as for recipe an4. The noisy test set is a copy of the test set, its noise generated and fixed by the seed.
prepare="python3 local/prepare_an4.py --corpus-dir \$corpus_dir --out \$data :then: \
  python3 -m steps.augment_data --data \$data/test --config \$recipe_dir/conf/test_10db.yaml --set test_10db --seed \$seed"
train_set=train
dev_set=dev
test_sets="test test_10db"
speeds="0.9 1.0 1.1"
lexicon=true            # prepare_an4.py writes words.txt

teachers=""
compare="noisy:plain"
# name                parent            step             conf
chain="
plain                 -                 train_teacher    plain.yaml
noisy                 plain             distill_student  noisy.yaml
"
