"""From audio and text to batches: features, tokenizer, dataset, augmentation."""
