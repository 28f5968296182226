"""Handlers of the contract: each parses, runs and answers, and knows no transport."""
