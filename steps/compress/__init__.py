"""Compression: what to remove (importance), how to remove it (surgery, lowrank), how to store it (quantizer), what it costs (footprint)."""
