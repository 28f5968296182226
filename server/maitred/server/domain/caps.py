"""Caps on what an AGENT may do. STAFF has none, which `None` stands for everywhere.

Whatever gives an agent more to spend is held here: the opening balance, the resets that fill it up
again, the lines of a tab, the tip, and for how long a session is kept. Sessions themselves are
counted by the server (`services.allowance`), because no one session knows of the others. The policy
of a balance is no cap of its own: LIMIT gives back what was paid, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from maitred.server.domain.money import format_money, step_of
from maitred.server.domain.tab import Tab
from maitred.server.errors import PermissionDenied
from maitred.v1.session_pb2 import CreateSessionRequest
from maitred.v1.state_pb2 import Session


class Caps(NamedTuple):
    """The caps of a server's settings."""

    opening_balances: Mapping[str, int]
    """Largest opening balance by currency, in minor units; under "" for every other one."""
    idle_seconds: int
    resets: int
    tab_lines: int
    tip_percentage: int


def require_opening(caps: Caps | None, request: CreateSessionRequest) -> None:
    """Refuse to open a session with more, or for longer, than an agent may ask for.

    Raises: PermissionDenied.
    """
    if caps is None:
        return
    if request.HasField("opening_balance"):
        given = request.opening_balance
        most = caps.opening_balances.get(given.currency, caps.opening_balances[""])
        if given.minor_units > most:
            raise _beyond(
                f"an opening balance of {format_money(given.minor_units, given.currency)} is more"
                f" than the {format_money(most, given.currency)} that AGENT may give",
                most,
            )
    require_idle(caps, request.idle_seconds)


def require_idle(caps: Caps | None, seconds: int) -> None:
    """Refuse to keep an idle session for longer than an agent may.

    Raises: PermissionDenied.
    """
    if caps is not None and seconds > caps.idle_seconds:
        raise _beyond(
            f"{seconds} idle seconds are more than the {caps.idle_seconds} that AGENT may ask for",
            caps.idle_seconds,
        )


def require_reset(caps: Caps | None, session: Session) -> None:
    """Refuse one more reset than an agent may make in a visit: each fills the balance up again.

    Raises: PermissionDenied.
    """
    if caps is not None and session.agent_resets >= caps.resets:
        raise _beyond(
            f"AGENT has reset this session {session.agent_resets} times since its visit began,"
            " and may not do so again",
            caps.resets,
        )


def require_line(caps: Caps | None, session: Session) -> None:
    """Refuse one more line than an agent may add before a tab is paid, removed ones included.

    Raises: PermissionDenied.
    """
    if caps is None:
        return
    if session.last_line_number - session.paid_through_line >= caps.tab_lines:
        raise _beyond(
            f"AGENT may add {caps.tab_lines} lines to a tab before it is paid, and has",
            caps.tab_lines,
        )


def require_tip(caps: Caps | None, tab: Tab, amount: int) -> None:
    """Refuse a fixed tip that is more than so many percent of the tab.

    Raises: PermissionDenied.
    """
    if caps is None or amount * 100 <= tab.tab * caps.tip_percentage:
        return
    raise _beyond(
        f"a tip of {format_money(amount, tab.currency)} is more than {caps.tip_percentage} percent"
        f" of {format_money(tab.tab, tab.currency)}",
        largest_tip(tab, caps.tip_percentage),
    )


def reverse(tab: Tab, price: int, tip_percentage: int | None) -> None:
    """Give a price back; a fixed tip that was within its cap stays so as the tab shrinks.

    Or else a large tab would let an agent set a tip that it then leaves on a small one. What STAFF
    has set beyond the cap stays.
    """
    within = tip_percentage is not None and tab.tip * 100 <= tab.tab * tip_percentage
    tab.reverse(price)
    if tip_percentage is not None and within and tab.tip_percentage is None:
        tab.tip = min(tab.tip, largest_tip(tab, tip_percentage))


def largest_tip(tab: Tab, percentage: int) -> int:
    """The largest fixed tip within so many percent of a tab, in whole steps of the currency."""
    step = step_of(tab.currency)
    return tab.tab * percentage // 100 // step * step


def _beyond(text: str, most: int) -> PermissionDenied:
    return PermissionDenied(
        f"{text}; that needs role STAFF",
        metadata={"required_role": "STAFF", "maximum": str(most)},
    )
