"""What can go wrong, typed: one class for each `ErrorReason` of the contract.

An error is rebuilt from the `google.rpc.ErrorInfo` in the status details. The gRPC status of a
reason stands in the contract, as an option of the enum value, and nowhere else.
"""

from __future__ import annotations

import grpc

from maitred.client._status import MaitredError as MaitredError  # noqa: PLC0414 - public here
from maitred.client._status import read_details, reason_name
from maitred.v1 import common_pb2


def error_class(reason: str) -> type[MaitredError]:
    """Find the class of a reason; the base where there is none."""
    return _CLASSES.get(reason, MaitredError)


def from_rpc_error(error: grpc.RpcError) -> MaitredError:
    """Rebuild the error that the server raised from what came over the wire."""
    status: grpc.StatusCode = error.code()
    details = read_details(error)
    return error_class(details.reason)(
        error.details() or status.name.lower().replace("_", " "),
        reason=details.reason,
        status=status,
        metadata=details.metadata,
        violations=details.violations,
        retry_after=details.retry_after,
    )


class InsufficientFunds(MaitredError):
    """The balance is below the price. Metadata: balance, price."""

    code = common_pb2.ERROR_REASON_INSUFFICIENT_FUNDS


class StripeUnavailable(MaitredError):
    """The payment provider does not answer."""

    code = common_pb2.ERROR_REASON_STRIPE_UNAVAILABLE


class PaymentFailed(MaitredError):
    """The provider refused the payment."""

    code = common_pb2.ERROR_REASON_PAYMENT_FAILED


class ConcurrentModification(MaitredError):
    """The aggregate is not at the version, payment version or reset count that was expected.

    Metadata: current_version and the counter that differs.
    """

    code = common_pb2.ERROR_REASON_CONCURRENT_MODIFICATION


class NetworkError(MaitredError):
    """The network failed on the way to the provider."""

    code = common_pb2.ERROR_REASON_NETWORK_ERROR


class RateLimited(MaitredError):
    """Too many requests."""

    code = common_pb2.ERROR_REASON_RATE_LIMITED


class InvalidSession(MaitredError):
    """No session has this id."""

    code = common_pb2.ERROR_REASON_INVALID_SESSION


class ItemNotFound(MaitredError):
    """The menu has no such item."""

    code = common_pb2.ERROR_REASON_ITEM_NOT_FOUND


class PaymentTimeout(MaitredError):
    """The payment did not settle in the time that the caller allowed."""

    code = common_pb2.ERROR_REASON_PAYMENT_TIMEOUT


class InvalidTipPercentage(MaitredError):
    """The tip percentage is not one of the configured ones. Metadata: allowed."""

    code = common_pb2.ERROR_REASON_INVALID_TIP_PERCENTAGE


class InvalidQuantity(MaitredError):
    """The quantity is out of bounds."""

    code = common_pb2.ERROR_REASON_INVALID_QUANTITY


class SessionExpired(MaitredError):
    """The session has expired; it accepts no new commands."""

    code = common_pb2.ERROR_REASON_SESSION_EXPIRED


class SessionClosed(MaitredError):
    """The session is closed; it accepts no new commands."""

    code = common_pb2.ERROR_REASON_SESSION_CLOSED


class SessionDeleted(MaitredError):
    """The session was deleted; its id never comes back."""

    code = common_pb2.ERROR_REASON_SESSION_DELETED


class AlreadyExists(MaitredError):
    """The id is taken by something created with another request."""

    code = common_pb2.ERROR_REASON_ALREADY_EXISTS


class RequestIdReused(MaitredError):
    """The request id was used before with another request."""

    code = common_pb2.ERROR_REASON_REQUEST_ID_REUSED


class LockTimeout(MaitredError):
    """The session was busy for longer than a command may wait."""

    code = common_pb2.ERROR_REASON_LOCK_TIMEOUT


class InboundMessageTaken(MaitredError):
    """Somebody else's turn owns this inbound message. Metadata: session_id."""

    code = common_pb2.ERROR_REASON_INBOUND_MESSAGE_TAKEN


class VersionOutOfRange(MaitredError):
    """The version asked for is not in the log. Metadata: oldest, newest."""

    code = common_pb2.ERROR_REASON_VERSION_OUT_OF_RANGE


class MenuNotFound(MaitredError):
    """No menu has this id, or the session has none."""

    code = common_pb2.ERROR_REASON_MENU_NOT_FOUND


class ItemSoldOut(MaitredError):
    """The item is sold out. Metadata: item."""

    code = common_pb2.ERROR_REASON_ITEM_SOLD_OUT


class ItemAmbiguous(MaitredError):
    """Several items fit the name: name one by its id. Metadata: item, menu_id, candidates."""

    code = common_pb2.ERROR_REASON_ITEM_AMBIGUOUS


class ModifierAmbiguous(MaitredError):
    """Several modifiers fit the name. Metadata: modifier, item, candidates."""

    code = common_pb2.ERROR_REASON_MODIFIER_AMBIGUOUS


class ModifierNotFound(MaitredError):
    """Neither the item nor the menu knows the modifier. Metadata: modifier."""

    code = common_pb2.ERROR_REASON_MODIFIER_NOT_FOUND


class OrderEmpty(MaitredError):
    """The order has no lines."""

    code = common_pb2.ERROR_REASON_ORDER_EMPTY


class OrderNotFound(MaitredError):
    """No order has this number."""

    code = common_pb2.ERROR_REASON_ORDER_NOT_FOUND


class LineNotFound(MaitredError):
    """The order has no such line."""

    code = common_pb2.ERROR_REASON_LINE_NOT_FOUND


class OrderLinePaid(MaitredError):
    """A settled payment covers the line: refund it instead."""

    code = common_pb2.ERROR_REASON_ORDER_LINE_PAID


class OrderLineWrittenOff(MaitredError):
    """The line's tab was written off: nothing of it is owed, and nothing was paid for it."""

    code = common_pb2.ERROR_REASON_ORDER_LINE_WRITTEN_OFF


class CurrencyMismatch(MaitredError):
    """An amount is in another currency than the session."""

    code = common_pb2.ERROR_REASON_CURRENCY_MISMATCH


class SessionFull(MaitredError):
    """The session would take more bytes than a session may.

    Metadata: limit, size, both in bytes.
    """

    code = common_pb2.ERROR_REASON_SESSION_FULL


class OrderFull(MaitredError):
    """The order holds as many lines as an order may."""

    code = common_pb2.ERROR_REASON_ORDER_FULL


class NothingToPay(MaitredError):
    """There is nothing to pay."""

    code = common_pb2.ERROR_REASON_NOTHING_TO_PAY


class TabEmpty(MaitredError):
    """The tab is empty, so that there is nothing to tip on."""

    code = common_pb2.ERROR_REASON_TAB_EMPTY


class TabOpen(MaitredError):
    """The tab is not empty; staff may write it off with a reason."""

    code = common_pb2.ERROR_REASON_TAB_OPEN


class PaymentOpen(MaitredError):
    """A payment is open or its outcome is unknown."""

    code = common_pb2.ERROR_REASON_PAYMENT_OPEN


class PaymentNotFound(MaitredError):
    """No payment has this id, or there is none."""

    code = common_pb2.ERROR_REASON_PAYMENT_NOT_FOUND


class PreviousPaymentUnresolved(MaitredError):
    """The link before this one is not known to be dead yet; try again."""

    code = common_pb2.ERROR_REASON_PREVIOUS_PAYMENT_UNRESOLVED


class PaymentNotConfirmed(MaitredError):
    """The provider has not confirmed the payment."""

    code = common_pb2.ERROR_REASON_PAYMENT_NOT_CONFIRMED


class PaymentSettled(MaitredError):
    """The payment is settled already, with another result than asked for."""

    code = common_pb2.ERROR_REASON_PAYMENT_SETTLED


class RefundExceedsPaid(MaitredError):
    """More than what was paid and not yet refunded. Metadata: refundable."""

    code = common_pb2.ERROR_REASON_REFUND_EXCEEDS_PAID


class AmountOutOfRange(MaitredError):
    """The provider cannot charge this amount (metadata: nearest), or a sum would leave its bounds.

    Metadata: minimum, maximum; of a sum the operation that would have brought it out of them.
    """

    code = common_pb2.ERROR_REASON_AMOUNT_OUT_OF_RANGE


class InvalidField(MaitredError):
    """A field breaks a rule of the contract; see the field violations."""

    code = common_pb2.ERROR_REASON_INVALID_FIELD


class MalformedRequest(MaitredError):
    """The bytes are not a message of the expected type."""

    code = common_pb2.ERROR_REASON_MALFORMED_REQUEST


class RequestTooLarge(MaitredError):
    """The request, or what it would record, takes more bytes than is accepted.

    Metadata: limit, size, both in bytes.
    """

    code = common_pb2.ERROR_REASON_REQUEST_TOO_LARGE


class CardNumberRefused(MaitredError):
    """A card number stands where none may be."""

    code = common_pb2.ERROR_REASON_CARD_NUMBER_REFUSED


class Unauthenticated(MaitredError):
    """No token, or one that nobody issued."""

    code = common_pb2.ERROR_REASON_UNAUTHENTICATED


class PermissionDenied(MaitredError):
    """The role or the session of the token does not allow this. Metadata: required_role."""

    code = common_pb2.ERROR_REASON_PERMISSION_DENIED


class ReasonRequired(MaitredError):
    """Staff must say why."""

    code = common_pb2.ERROR_REASON_REASON_REQUIRED


class InvalidPageToken(MaitredError):
    """The page token is not one that this listing gave out."""

    code = common_pb2.ERROR_REASON_INVALID_PAGE_TOKEN


class StoreUnavailable(MaitredError):
    """The store cannot be reached; certainly nothing was changed."""

    code = common_pb2.ERROR_REASON_STORE_UNAVAILABLE


class StoreFull(MaitredError):
    """The disk or the write queue is full; nothing was changed and reads go on."""

    code = common_pb2.ERROR_REASON_STORE_FULL


class OutcomeUnknown(MaitredError):
    """The write may or may not have happened; retry with the same request id."""

    code = common_pb2.ERROR_REASON_OUTCOME_UNKNOWN


class ShuttingDown(MaitredError):
    """The server is going down; retry elsewhere or later."""

    code = common_pb2.ERROR_REASON_SHUTTING_DOWN


class SchemaTooNew(MaitredError):
    """The data was written by a newer server."""

    code = common_pb2.ERROR_REASON_SCHEMA_TOO_NEW


class Unsupported(MaitredError):
    """The engine or the configuration cannot do this."""

    code = common_pb2.ERROR_REASON_UNSUPPORTED


class DeadlineExceeded(MaitredError):
    """The deadline passed before the command was decided."""

    code = common_pb2.ERROR_REASON_DEADLINE_EXCEEDED


class Internal(MaitredError):
    """Something unforeseen; metadata incident_id finds it in the server's log."""

    code = common_pb2.ERROR_REASON_INTERNAL


_CLASSES = {reason_name(cls.code): cls for cls in MaitredError.__subclasses__()}
