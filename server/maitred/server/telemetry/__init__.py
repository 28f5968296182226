"""Logs and metrics; depends on nothing of maitred, so that everything may use it."""
