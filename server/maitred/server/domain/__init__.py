"""The rules: pure functions over the messages of the contract. No clock, no I/O, no randomness."""
