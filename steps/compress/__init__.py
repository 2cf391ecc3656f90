"""Compression: what goes (importance, plan), how (surgery, lowrank, sparsity), in how many bits (quantizer)."""
