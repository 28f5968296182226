"""Payments: providers behind one interface, and the work that turns what they say into events."""
