"""The projections that commits write beside the log; a store knows them as numbers."""

from __future__ import annotations

import enum


class Table(enum.IntEnum):
    """A projection. The numbers are stored: append, never renumber."""

    PAYMENTS = 1
    ORDERS = 2
    INBOX = 3
    UNMATCHED = 4
