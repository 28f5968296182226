"""The client of maitred: everything an agent service, a tool or a board needs, in one name."""

from __future__ import annotations

__all__ = [
    "TLS",
    "AsyncClient",
    "AsyncEventsWatch",
    "AsyncPager",
    "AsyncPaymentWatch",
    "AsyncSessionHandle",
    "AsyncSessionWatch",
    "Attention",
    "BalancePolicy",
    "Client",
    "Conversation",
    "ErrorReason",
    "Event",
    "EventsWatch",
    "FieldViolation",
    "InboundMessage",
    "MarkPolicy",
    "Menu",
    "MenuItem",
    "MenuModifier",
    "MenuPreference",
    "Message",
    "MessageRole",
    "Money",
    "Mutation",
    "NewMessage",
    "NextAction",
    "NextActionKind",
    "NoCurrentSession",
    "Order",
    "OrderLine",
    "OrderStatus",
    "Pager",
    "Payment",
    "PaymentMethod",
    "PaymentOutcome",
    "PaymentState",
    "PaymentStatus",
    "PaymentUpdate",
    "PaymentWatch",
    "Phase",
    "Refund",
    "RefundStatus",
    "RequestId",
    "RequestedPayment",
    "Retries",
    "Role",
    "Session",
    "SessionEnded",
    "SessionEvent",
    "SessionHandle",
    "SessionSnapshot",
    "SessionStatus",
    "SessionUpdate",
    "SessionWatch",
    "SourcedEvent",
    "TabStatus",
    "WatchMode",
    "assistant",
    "current_session",
    "format_money",
    "staff",
    "system",
    "tool",
    "user",
]

from maitred.client import errors
from maitred.client._async.client import (
    AsyncClient,
)
from maitred.client._async.handle import (
    AsyncSessionHandle,
)
from maitred.client._async.pages import (
    AsyncPager,
)
from maitred.client._async.watches import (
    AsyncEventsWatch,
    AsyncPaymentWatch,
    AsyncSessionWatch,
)
from maitred.client._channel import (
    TLS,
    Retries,
)
from maitred.client._context import (
    NoCurrentSession,
    current_session,
)
from maitred.client._items import (
    PaymentUpdate,
    SessionEnded,
    SessionEvent,
    SessionSnapshot,
    SessionUpdate,
)
from maitred.client._messages import (
    assistant,
    staff,
    system,
    tool,
    user,
)
from maitred.client._money import (
    format_money,
)
from maitred.client._options import (
    Mutation,
    RequestId,
)
from maitred.client._payments import (
    RequestedPayment,
)
from maitred.client._status import (
    FieldViolation,
)
from maitred.client._sync.client import (
    Client,
)
from maitred.client._sync.handle import (
    SessionHandle,
)
from maitred.client._sync.pages import (
    Pager,
)
from maitred.client._sync.watches import (
    EventsWatch,
    PaymentWatch,
    SessionWatch,
)
from maitred.client.errors import *  # noqa: F403  every class, as the contract names them
from maitred.v1.common_pb2 import (
    ErrorReason,
    Money,
    Role,
)
from maitred.v1.conversation_pb2 import (
    NewMessage,
)
from maitred.v1.event_pb2 import (
    Event,
)
from maitred.v1.menu_pb2 import MarkPolicy
from maitred.v1.payment_pb2 import (
    NextAction,
    NextActionKind,
    PaymentOutcome,
)
from maitred.v1.session_pb2 import (
    SourcedEvent,
    WatchMode,
)
from maitred.v1.state_pb2 import (
    Attention,
    BalancePolicy,
    Conversation,
    InboundMessage,
    Menu,
    MenuItem,
    MenuModifier,
    MenuPreference,
    Message,
    MessageRole,
    Order,
    OrderLine,
    OrderStatus,
    Payment,
    PaymentMethod,
    PaymentState,
    PaymentStatus,
    Phase,
    Refund,
    RefundStatus,
    Session,
    SessionStatus,
    TabStatus,
)

__all__ += errors.__all__
