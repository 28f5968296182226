"""What Stripe keeps for one account, in its own shapes, and what guests, banks and staff do to it.

Objects refer to one another by id, as they do at Stripe; `expand` puts them together.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from maitred.server.engine.clock import Clock

Object = dict[str, Any]

NS = 1_000_000_000
API_VERSION = "2026-10-28.endive"


class NotPossible(Exception):
    """An act that Stripe would not let anybody do."""


class Account:
    """The objects of one account. Every act sends the events that Stripe sends for it."""

    def __init__(self, clock: Clock, *, livemode: bool = False) -> None:
        self.clock = clock
        self.livemode = livemode
        self.tables: dict[str, dict[str, Object]] = {
            kind: {} for kind in ("cs", "pi", "ch", "re", "dp")
        }
        self.events: list[Object] = []
        """Sent and not yet drained, oldest first."""
        self.refunds_wait = False
        """New refunds stay pending, until `finish_refund` or `fail_refund`."""
        self._count = 0

    # --- objects ----------------------------------------------------------------------------------

    def now_s(self) -> int:
        """Read the clock, as Stripe writes times."""
        return self.clock.now_ns() // NS

    def new_id(self, prefix: str) -> str:
        """Make an id in Stripe's manner."""
        self._count += 1
        mode = ("live_" if self.livemode else "test_") if prefix == "cs" else ""
        return f"{prefix}_{mode}{self._count:024d}"

    def table(self, name: str) -> dict[str, Object]:
        """Find the table of an object's id."""
        kind = name.split("_", maxsplit=1)[0]
        return self.tables.get({"py": "ch", "pyr": "re", "du": "dp"}.get(kind, kind), {})

    def get(self, name: str) -> Object | None:
        """Read an object as it is now."""
        self.tick()
        return self.table(name).get(name)

    def all(self, kind: str) -> list[Object]:
        """List the objects of a kind, newest first."""
        self.tick()
        return list(reversed(self.tables[kind].values()))

    def tick(self) -> None:
        """Let the links die whose time has come."""
        now = self.now_s()
        for session in self.tables["cs"].values():
            if session["status"] == "open" and session["expires_at"] <= now:
                self._expire(session)

    def add_session(self, asked: Mapping[str, Any], base_url: str) -> Object:
        """Make a Checkout Session of parameters that were validated."""
        name = self.new_id("cs")
        lines = asked["line_items"]
        total = sum(each["price_data"]["unit_amount"] * each["quantity"] for each in lines)
        session: Object = {
            "id": name,
            "object": "checkout.session",
            "adaptive_pricing": asked.get("adaptive_pricing"),
            "amount_subtotal": total,
            "amount_total": total,
            "cancel_url": asked.get("cancel_url"),
            "client_reference_id": asked.get("client_reference_id"),
            "created": self.now_s(),
            "currency": lines[0]["price_data"]["currency"],
            "customer_details": None,
            "expires_at": asked.get("expires_at", self.now_s() + 86_400),
            "livemode": self.livemode,
            "metadata": dict(asked.get("metadata", {})),
            "mode": asked["mode"],
            "payment_intent": None,
            "payment_status": "unpaid",
            "status": "open",
            "submit_type": asked.get("submit_type"),
            "success_url": asked.get("success_url"),
            "ui_mode": "hosted_page",
            "url": f"{base_url}/c/pay/{name}",
            # Kept for the payment intent, which is made when the guest first tries to pay.
            "_intent_metadata": asked.get("payment_intent_data", {}).get("metadata", {}),
        }
        self.tables["cs"][name] = session
        return session

    def add_refund(self, intent: Object, amount: int, metadata: Mapping[str, str]) -> Object:
        """Make a refund of what was validated."""
        charge = self.tables["ch"][intent["latest_charge"]]
        refund: Object = {
            "id": self.new_id("re"),
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": self.now_s(),
            "currency": intent["currency"],
            "metadata": dict(metadata),
            "payment_intent": intent["id"],
            "status": "pending" if self.refunds_wait else "succeeded",
        }
        self.tables["re"][refund["id"]] = refund
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self._send("refund.created", refund)
        self._send("charge.refunded", charge)
        return refund

    def refunds_of(self, charge: str) -> list[Object]:
        """List a charge's refunds, newest first."""
        return [each for each in self.all("re") if each["charge"] == charge]

    # --- what guests and banks do -----------------------------------------------------------------

    def pay(self, name: str) -> None:
        """Pay with a card. Raises: NotPossible."""
        session = self._open(name)
        self._complete(session, "paid")
        self._receive(session)
        self._send("checkout.session.completed", session)

    def decline(self, name: str, code: str = "insufficient_funds") -> None:
        """Try a card that is declined; the guest may try another. Raises: NotPossible."""
        session = self._open(name)
        self._refuse(session, "card_declined", code)

    def pay_slowly(self, name: str) -> None:
        """Pay by a method that takes days. Raises: NotPossible."""
        session = self._open(name)
        intent = self._intent(session)
        intent["status"] = "processing"
        self._complete(session, "unpaid")
        self._send("payment_intent.processing", intent)
        self._send("checkout.session.completed", session)

    def settle(self, name: str) -> None:
        """Let the money of a slow method come. Raises: NotPossible."""
        session = self._slow(name)
        session["payment_status"] = "paid"
        self._receive(session)
        self._send("checkout.session.async_payment_succeeded", session)

    def fail_slowly(self, name: str) -> None:
        """Let the money of a slow method not come. Raises: NotPossible."""
        session = self._slow(name)
        self._refuse(session, "payment_intent_payment_attempt_failed", "")
        self._send("checkout.session.async_payment_failed", session)

    def expire(self, name: str) -> Object:
        """Make a link unusable. Raises: NotPossible."""
        session = self._open(name)
        self._expire(session)
        return session

    def dispute(self, name: str) -> Object:
        """Dispute a payment at the bank. Raises: NotPossible."""
        charge = self._charge(name)
        charge["disputed"] = True
        dispute: Object = {
            "id": self.new_id("dp"),
            "object": "dispute",
            "amount": charge["amount"],
            "charge": charge["id"],
            "created": self.now_s(),
            "currency": charge["currency"],
            "payment_intent": charge["payment_intent"],
            "status": "needs_response",
        }
        self.tables["dp"][dispute["id"]] = dispute
        self._send("charge.dispute.created", dispute)
        return dispute

    def end_dispute(self, name: str, status: str) -> None:
        """Let a bank decide a dispute: won, lost or warning_closed."""
        dispute = self.tables["dp"][name]
        dispute["status"] = status
        self._send("charge.dispute.closed", dispute)

    def change_amount(self, name: str, amount: int) -> None:
        """Make an open session ask for something else, as a promotion code does."""
        self._open(name)["amount_total"] = amount

    # --- what staff do at the dashboard, and what becomes of refunds ------------------------------

    def refund_at_dashboard(self, name: str, amount: int) -> Object:
        """Give money back without anybody of ours knowing. Raises: NotPossible."""
        charge = self._charge(name)
        if amount > charge["amount"] - charge["amount_refunded"]:
            raise NotPossible("more than is left")
        return self.add_refund(self.tables["pi"][charge["payment_intent"]], amount, {})

    def finish_refund(self, name: str) -> None:
        """Let a pending refund arrive."""
        refund = self.tables["re"][name]
        refund["status"] = "succeeded"
        self._send("refund.updated", refund)

    def fail_refund(self, name: str, reason: str = "expired_or_canceled_card") -> None:
        """Let a refund come back, also one that had succeeded."""
        refund = self.tables["re"][name]
        refund.update(status="failed", failure_reason=reason)
        charge = self.tables["ch"][refund["charge"]]
        charge["amount_refunded"] -= refund["amount"]
        charge["refunded"] = False
        self._send("refund.failed", refund)

    # --- how it comes about -----------------------------------------------------------------------

    def _open(self, name: str) -> Object:
        session = self.get(name)
        if session is None or session["status"] != "open":
            raise NotPossible("the session is not open")
        return session

    def _slow(self, name: str) -> Object:
        session = self.get(name)
        if session is None or (session["status"], session["payment_status"]) != (
            "complete",
            "unpaid",
        ):
            raise NotPossible("no money is on its way")
        return session

    def _charge(self, name: str) -> Object:
        session = self.get(name)
        if session is None or session["payment_status"] != "paid":
            raise NotPossible("the session is not paid")
        return self.tables["ch"][self.tables["pi"][session["payment_intent"]]["latest_charge"]]

    def _expire(self, session: Object) -> None:
        session.update(status="expired", url=None)
        self._send("checkout.session.expired", session)

    def _complete(self, session: Object, payment_status: str) -> None:
        session.update(
            status="complete",
            payment_status=payment_status,
            url=None,
            customer_details={"email": "guest@example.com", "name": "A Guest"},
        )

    def _intent(self, session: Object) -> Object:
        if session["payment_intent"] is None:
            intent: Object = {
                "id": self.new_id("pi"),
                "object": "payment_intent",
                "amount": session["amount_total"],
                "amount_received": 0,
                "created": self.now_s(),
                "currency": session["currency"],
                "last_payment_error": None,
                "latest_charge": None,
                "livemode": self.livemode,
                "metadata": dict(session["_intent_metadata"]),
                "status": "requires_payment_method",
            }
            self.tables["pi"][intent["id"]] = intent
            session["payment_intent"] = intent["id"]
            self._send("payment_intent.created", intent)
        found: Object = self.tables["pi"][session["payment_intent"]]
        return found

    def _new_charge(self, intent: Object, status: str) -> Object:
        charge: Object = {
            "id": self.new_id("ch"),
            "object": "charge",
            "amount": intent["amount"],
            "amount_refunded": 0,
            "created": self.now_s(),
            "currency": intent["currency"],
            "disputed": False,
            "livemode": self.livemode,
            "metadata": dict(intent["metadata"]),
            "paid": status == "succeeded",
            "payment_intent": intent["id"],
            "refunded": False,
            "status": status,
        }
        self.tables["ch"][charge["id"]] = charge
        intent["latest_charge"] = charge["id"]
        return charge

    def _receive(self, session: Object) -> None:
        intent = self._intent(session)
        intent["amount"] = session["amount_total"]
        charge = self._new_charge(intent, "succeeded")
        intent.update(status="succeeded", amount_received=intent["amount"], last_payment_error=None)
        self._send("charge.succeeded", charge)
        self._send("payment_intent.succeeded", intent)

    def _refuse(self, session: Object, code: str, decline_code: str) -> None:
        intent = self._intent(session)
        error = {"type": "card_error", "code": code, "message": "The payment failed."}
        if decline_code:
            error["decline_code"] = decline_code
        intent.update(status="requires_payment_method", last_payment_error=error)
        self._send("charge.failed", self._new_charge(intent, "failed"))
        self._send("payment_intent.payment_failed", intent)

    # --- events -----------------------------------------------------------------------------------

    def renumber_events(self) -> None:
        """Give the waiting events new ids, as a second endpoint gets them."""
        for event in self.events:
            event["id"] = self.new_id("evt")

    def _send(self, kind: str, about: Object) -> None:
        self.events.append(
            {
                "id": self.new_id("evt"),
                "object": "event",
                "api_version": API_VERSION,
                "created": self.now_s(),
                "data": {"object": public(about)},
                "livemode": self.livemode,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": kind,
            }
        )


def thin(event: Object) -> Object:
    """Make the thin form of an event: what it is about, and nothing of how that is."""
    about = event["data"]["object"]
    return {
        "id": event["id"],
        "object": "v2.core.event",
        "created": datetime.fromtimestamp(event["created"], UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "livemode": event["livemode"],
        "related_object": {
            "id": about["id"],
            "type": about["object"],
            "url": f"/v1/{about['object'].replace('.', '/')}s/{about['id']}",
        },
        "type": f"v1.{event['type']}",
    }


def public(given: Mapping[str, Any]) -> Object:
    """Copy an object without what is only the account's."""
    return {key: copy.deepcopy(value) for key, value in given.items() if not key.startswith("_")}


def body_of(event: Object) -> bytes:
    """Write an event as Stripe does: indented."""
    return json.dumps(event, indent=2).encode()


def concerns(event: Object, names: set[str]) -> bool:
    """Tell whether an event is about one of these objects, or belongs to one."""
    about = event["data"]["object"]
    return not names.isdisjoint(
        str(about.get(field)) for field in ("id", "payment_intent", "charge")
    )
