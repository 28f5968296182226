"""maitred pay: act as the guest, at the simulated provider."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from maitred.server.app.wiring import books_directory
from maitred.server.cli.failures import CommandError
from maitred.server.cli.words import show
from maitred.server.config import load
from maitred.server.domain.money import format_money
from maitred.server.payments import simulated
from maitred.server.payments.books import Refused, directory_of


def pay(arguments: argparse.Namespace) -> int:
    """Pay a link, or try a card that is declined."""
    folder = (
        Path(arguments.dir)
        if arguments.dir
        # The link knows best: it was made where the server runs, not where this command does.
        else directory_of(arguments.payment) or books_directory(load({}, os.environ))
    )
    if folder is None:
        raise CommandError("the data is in memory: give the whole link, or --dir")
    act = simulated.decline if arguments.decline else simulated.pay
    try:
        made = act(folder, arguments.payment)
    except Refused as refused:
        raise CommandError(f"{refused}; its books are in {folder}") from refused
    done = "declined" if arguments.decline else made.status.value
    show(f"{made.provider_payment_id}: {done}, {format_money(made.minor_units, made.currency)}")
    return 0
