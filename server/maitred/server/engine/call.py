"""Who calls, and until when: what a handler knows of the transport."""

from __future__ import annotations

import time
from dataclasses import dataclass

from maitred.server.errors import DeadlineExceeded, PermissionDenied
from maitred.v1.common_pb2 import Binding, Role


@dataclass(frozen=True, slots=True)
class Actor:
    """Who a token stands for. A VIEWER is bound to one session."""

    name: str
    role: Role.ValueType
    binding: Binding.ValueType = Binding.BINDING_UNSPECIFIED
    """What kind of thing the token is bound to; of that kind it reaches no other."""
    bound_to: str = ""
    """The id of that thing; empty where the token is bound to nothing."""

    def is_at_least(self, role: Role.ValueType) -> bool:
        """Whether the actor may do what `role` may."""
        return self.role >= role


SYSTEM = Actor(name="maitred", role=Role.ROLE_UNSPECIFIED)
"""The server itself: what it does without being asked."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as any transport hands it to a handler."""

    actor: Actor
    method: str = ""
    """Full name of the rpc: `maitred.v1.OrderService/AddItem`."""
    deadline: float | None = None
    """On the clock of `time.monotonic`."""
    trace_id: str = ""
    """Ties the log lines of this call together; the caller's `x-request-id` where given."""

    def remaining(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def time_left(self) -> float | None:
        """Seconds until the deadline; None where there is none.

        Raises: DeadlineExceeded, where it has passed.
        """
        remaining = self.remaining()
        if remaining is not None and remaining <= 0:
            raise late()
        return remaining

    def require(self, role: Role.ValueType, what: str) -> None:
        """Refuse unless the actor is at least `role`.

        Raises: PermissionDenied.
        """
        if not self.actor.is_at_least(role):
            raise PermissionDenied(
                f"{what} needs role {Role.Name(role).removeprefix('ROLE_')}",
                metadata={"required_role": Role.Name(role).removeprefix("ROLE_")},
            )


def late() -> DeadlineExceeded:
    """Make the error of a command that was not decided in time: nothing happened."""
    return DeadlineExceeded("the deadline passed before the command was decided")


SYSTEM_CALL = Call(actor=SYSTEM, method="maitred")
"""What the server does without being asked."""
