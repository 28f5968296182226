"""Decide, evolve, commit, publish: the one way in which anything changes."""
