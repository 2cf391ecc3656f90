"""Training criteria: pure functions of tensors."""
