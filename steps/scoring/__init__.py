"""Word error rates, their uncertainty, and the one results schema."""
