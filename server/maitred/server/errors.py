"""What can go wrong, in the domain's words: one class for each `ErrorReason` of the contract.

The gRPC status of a reason is an option of its enum value. Messages are for callers, not the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from maitred.v1 import common_pb2

DOMAIN = "maitred"


class Violation(NamedTuple):
    """One broken rule of one field of a request."""

    field: str
    rule: str
    description: str


class MaitredError(Exception):
    """Base of everything that a caller is told."""

    reason: ClassVar[common_pb2.ErrorReason.ValueType]

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s

    @property
    def reason_name(self) -> str:
        """The reason as it travels: without the prefix of the enum."""
        return common_pb2.ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")


def status_of(reason: common_pb2.ErrorReason.ValueType) -> str:
    """Read the gRPC status of a reason from the contract."""
    value = common_pb2.ErrorReason.DESCRIPTOR.values_by_number[reason]
    return str(value.GetOptions().Extensions[common_pb2.reason].status)


class InsufficientFunds(MaitredError):
    """The balance is below the price."""

    reason = common_pb2.ERROR_REASON_INSUFFICIENT_FUNDS


class StripeUnavailable(MaitredError):
    """The payment provider does not answer."""

    reason = common_pb2.ERROR_REASON_STRIPE_UNAVAILABLE


class PaymentFailed(MaitredError):
    """The provider refused the payment."""

    reason = common_pb2.ERROR_REASON_PAYMENT_FAILED


class ConcurrentModification(MaitredError):
    """The aggregate is not at the version or count that the caller expected."""

    reason = common_pb2.ERROR_REASON_CONCURRENT_MODIFICATION


class NetworkError(MaitredError):
    """The network failed on the way to the provider."""

    reason = common_pb2.ERROR_REASON_NETWORK_ERROR


class RateLimited(MaitredError):
    """Too many requests."""

    reason = common_pb2.ERROR_REASON_RATE_LIMITED


class InvalidSession(MaitredError):
    """No session has this id."""

    reason = common_pb2.ERROR_REASON_INVALID_SESSION


class ItemNotFound(MaitredError):
    """The menu has no such item."""

    reason = common_pb2.ERROR_REASON_ITEM_NOT_FOUND


class PaymentTimeout(MaitredError):
    """The payment did not settle in the time that the caller allowed."""

    reason = common_pb2.ERROR_REASON_PAYMENT_TIMEOUT


class InvalidTipPercentage(MaitredError):
    """The tip percentage is not one of the configured ones."""

    reason = common_pb2.ERROR_REASON_INVALID_TIP_PERCENTAGE


class InvalidQuantity(MaitredError):
    """The quantity is not 1 to 100, or is more than the line holds."""

    reason = common_pb2.ERROR_REASON_INVALID_QUANTITY


class SessionExpired(MaitredError):
    """The session has expired; it accepts no new commands."""

    reason = common_pb2.ERROR_REASON_SESSION_EXPIRED


class SessionClosed(MaitredError):
    """The session is closed; it accepts no new commands."""

    reason = common_pb2.ERROR_REASON_SESSION_CLOSED


class SessionDeleted(MaitredError):
    """The session was deleted; its id never comes back."""

    reason = common_pb2.ERROR_REASON_SESSION_DELETED


class AlreadyExists(MaitredError):
    """The id is taken by something created with another request."""

    reason = common_pb2.ERROR_REASON_ALREADY_EXISTS


class RequestIdReused(MaitredError):
    """The request id was used before with another request."""

    reason = common_pb2.ERROR_REASON_REQUEST_ID_REUSED


class LockTimeout(MaitredError):
    """The session was busy for longer than a command may wait."""

    reason = common_pb2.ERROR_REASON_LOCK_TIMEOUT


class InboundMessageTaken(MaitredError):
    """The inbound message was recorded before, elsewhere or with other words."""

    reason = common_pb2.ERROR_REASON_INBOUND_MESSAGE_TAKEN


class VersionOutOfRange(MaitredError):
    """The version asked for is not in the log."""

    reason = common_pb2.ERROR_REASON_VERSION_OUT_OF_RANGE


class MenuNotFound(MaitredError):
    """No menu has this id, or the session has none."""

    reason = common_pb2.ERROR_REASON_MENU_NOT_FOUND


class ItemAmbiguous(MaitredError):
    """Several items fit the name. Metadata: item, menu_id, candidates."""

    reason = common_pb2.ERROR_REASON_ITEM_AMBIGUOUS


class ModifierAmbiguous(MaitredError):
    """Several modifiers fit the name. Metadata: modifier, item, candidates."""

    reason = common_pb2.ERROR_REASON_MODIFIER_AMBIGUOUS


class ItemSoldOut(MaitredError):
    """The item is sold out."""

    reason = common_pb2.ERROR_REASON_ITEM_SOLD_OUT


class ModifierNotFound(MaitredError):
    """Neither the item nor the menu knows the modifier."""

    reason = common_pb2.ERROR_REASON_MODIFIER_NOT_FOUND


class OrderEmpty(MaitredError):
    """The order has no lines."""

    reason = common_pb2.ERROR_REASON_ORDER_EMPTY


class OrderNotFound(MaitredError):
    """No order has this number."""

    reason = common_pb2.ERROR_REASON_ORDER_NOT_FOUND


class LineNotFound(MaitredError):
    """The order has no such line."""

    reason = common_pb2.ERROR_REASON_LINE_NOT_FOUND


class OrderLinePaid(MaitredError):
    """A settled payment covers the line: refund it instead."""

    reason = common_pb2.ERROR_REASON_ORDER_LINE_PAID


class OrderLineWrittenOff(MaitredError):
    """The line's tab was written off: nothing of it is owed, and nothing was paid for it."""

    reason = common_pb2.ERROR_REASON_ORDER_LINE_WRITTEN_OFF


class CurrencyMismatch(MaitredError):
    """An amount is in another currency than the session."""

    reason = common_pb2.ERROR_REASON_CURRENCY_MISMATCH


class SessionFull(MaitredError):
    """The session would take more bytes than a session may."""

    reason = common_pb2.ERROR_REASON_SESSION_FULL


class OrderFull(MaitredError):
    """The order holds as many lines as an order may."""

    reason = common_pb2.ERROR_REASON_ORDER_FULL


class NothingToPay(MaitredError):
    """There is nothing to pay."""

    reason = common_pb2.ERROR_REASON_NOTHING_TO_PAY


class TabEmpty(MaitredError):
    """The tab is empty, so that there is nothing to tip on."""

    reason = common_pb2.ERROR_REASON_TAB_EMPTY


class TabOpen(MaitredError):
    """The tab is not empty; staff may write it off with a reason."""

    reason = common_pb2.ERROR_REASON_TAB_OPEN


class PaymentOpen(MaitredError):
    """A payment is open or its outcome is unknown."""

    reason = common_pb2.ERROR_REASON_PAYMENT_OPEN


class PaymentNotFound(MaitredError):
    """No payment has this id, or there is none."""

    reason = common_pb2.ERROR_REASON_PAYMENT_NOT_FOUND


class PreviousPaymentUnresolved(MaitredError):
    """The link before this one is not known to be dead yet; try again."""

    reason = common_pb2.ERROR_REASON_PREVIOUS_PAYMENT_UNRESOLVED


class PaymentNotConfirmed(MaitredError):
    """The provider has not confirmed the payment."""

    reason = common_pb2.ERROR_REASON_PAYMENT_NOT_CONFIRMED


class PaymentSettled(MaitredError):
    """The payment is settled already, with another result than asked for."""

    reason = common_pb2.ERROR_REASON_PAYMENT_SETTLED


class RefundExceedsPaid(MaitredError):
    """More than what was paid and not yet refunded."""

    reason = common_pb2.ERROR_REASON_REFUND_EXCEEDS_PAID


class AmountOutOfRange(MaitredError):
    """The provider cannot charge what is owed, or a sum would leave the bounds of amounts."""

    reason = common_pb2.ERROR_REASON_AMOUNT_OUT_OF_RANGE


class InvalidField(MaitredError):
    """A field breaks a rule of the contract; see the field violations."""

    reason = common_pb2.ERROR_REASON_INVALID_FIELD


class MalformedRequest(MaitredError):
    """The bytes are not a message of the expected type."""

    reason = common_pb2.ERROR_REASON_MALFORMED_REQUEST


class RequestTooLarge(MaitredError):
    """The request, or what it would record, takes more bytes than is accepted."""

    reason = common_pb2.ERROR_REASON_REQUEST_TOO_LARGE


class CardNumberRefused(MaitredError):
    """A card number stands where none may be."""

    reason = common_pb2.ERROR_REASON_CARD_NUMBER_REFUSED


class Unauthenticated(MaitredError):
    """No token, or one that nobody issued."""

    reason = common_pb2.ERROR_REASON_UNAUTHENTICATED


class PermissionDenied(MaitredError):
    """The role or the session of the token does not allow this."""

    reason = common_pb2.ERROR_REASON_PERMISSION_DENIED


class ReasonRequired(MaitredError):
    """Staff must say why."""

    reason = common_pb2.ERROR_REASON_REASON_REQUIRED


class InvalidPageToken(MaitredError):
    """The page token is not one that this listing gave out."""

    reason = common_pb2.ERROR_REASON_INVALID_PAGE_TOKEN


class StoreUnavailable(MaitredError):
    """The store cannot be reached; certainly nothing was changed."""

    reason = common_pb2.ERROR_REASON_STORE_UNAVAILABLE


class StoreFull(MaitredError):
    """The disk or the write queue is full; nothing was changed and reads go on."""

    reason = common_pb2.ERROR_REASON_STORE_FULL


class OutcomeUnknown(MaitredError):
    """The write may or may not have happened; retry with the same request id."""

    reason = common_pb2.ERROR_REASON_OUTCOME_UNKNOWN


class ShuttingDown(MaitredError):
    """The server is going down; retry elsewhere or later."""

    reason = common_pb2.ERROR_REASON_SHUTTING_DOWN


class SchemaTooNew(MaitredError):
    """The data was written by a newer server."""

    reason = common_pb2.ERROR_REASON_SCHEMA_TOO_NEW


class Unsupported(MaitredError):
    """The engine or the configuration cannot do this."""

    reason = common_pb2.ERROR_REASON_UNSUPPORTED


class DeadlineExceeded(MaitredError):
    """The deadline passed before the command was decided."""

    reason = common_pb2.ERROR_REASON_DEADLINE_EXCEEDED


class Internal(MaitredError):
    """Something unforeseen; metadata incident_id finds it in the server's log."""

    reason = common_pb2.ERROR_REASON_INTERNAL
