"""Decoding: functions on log-probabilities."""
