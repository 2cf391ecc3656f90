# shellcheck shell=bash disable=SC2034
# hub: a model from a hub, fine-tuned on your speech and made smaller. What the variables mean: run.sh.

# hub_model: its folder; here an absolute path, as an option also one relative to where you are. corpus_dir: Kaldi data folders that you have; other readers: recipes/README.md.
prepare="python3 local/prepare_kaldi.py --corpus-dir \$corpus_dir --sets train=train,dev=dev,test=test --unlabelled \$unlabelled_sets --options \$recipe_dir/conf/prepare.yaml --nj \$nj"
train_set=train
dev_set=dev             # speakers of its own
test_sets="test"
speeds="1.0"
features=samples.yaml   # what such models hear
tokenizer=tokenizer.yaml

teachers="tuned"
compare="tuned_short:tuned"
# name            parent       step            conf
chain="
big               -            import_model    hub.yaml
head              big          train_teacher   head.yaml
tuned             head         train_teacher   tuned.yaml
tuned_short       tuned        prune_model     short.yaml
tuned_short_int8  tuned_short  quantize_model  quantize.yaml
"
