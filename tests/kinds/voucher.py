"""A kind of aggregate as one would add it: what a voucher is, how it changes and how it ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from maitred.server.domain import changes
from maitred.server.errors import (
    InvalidSession,
    MaitredError,
    RequestTooLarge,
    SessionClosed,
    SessionDeleted,
    SessionExpired,
)
from maitred.server.kinds.aggregate import Aggregate, Life
from maitred.server.stores.values import Index, Keep, Ref, Row
from maitred.server.units import NS
from maitred.v1 import event_pb2, session_pb2  # noqa: F401  # what the contract imports

_HERE = Path(__file__).parent


def _contract() -> SimpleNamespace:
    """Compile the contract of vouchers: one that is added to maitred comes with `make gen`."""
    roots = (_HERE, _HERE.parents[1] / "protos", resources.files("grpc_tools") / "_proto")
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{root}" for root in roots)]
        command += [f"--descriptor_set_out={out.name}", str(_HERE / "voucher.proto")]
        subprocess.run(command, check=True)
        found = FileDescriptorSet.FromString(out.read())
    pool = descriptor_pool.Default()
    for file in found.file:
        pool.AddSerializedFile(file.SerializeToString())
    described = pool.FindFileByName("voucher.proto")
    messages = {
        name: GetMessageClass(each) for name, each in described.message_types_by_name.items()
    }
    statuses = {
        value.name: value.number for value in described.enum_types_by_name["VoucherStatus"].values
    }
    return SimpleNamespace(**messages, **statuses)


pb: Any = _contract()

VOUCHER = 90
VOUCHER_ROWS = 90
RECEIPTS = "voucher receipt"


def create(state: Any, request: Any, now_ns: int) -> Any:
    """Make a voucher that nobody has redeemed."""
    if state is not None:
        return None
    voucher = pb.Voucher(
        voucher_id=request.voucher_id,
        worth=request.worth,
        holder=request.holder,
        status=pb.VOUCHER_STATUS_ACTIVE,
    )
    voucher.expires_at.FromNanoseconds(now_ns + request.valid_seconds * NS)
    return pb.Event(voucher_created=pb.VoucherPut(voucher=voucher))


def redeem(state: Any, session_id: str) -> Any:
    """Use a voucher up."""
    return pb.Event(voucher_redeemed=_with(state, pb.VOUCHER_STATUS_REDEEMED, session_id))


def delete() -> Any:
    """Erase a voucher."""
    return pb.Event(voucher_deleted=pb.VoucherDeleted(reason="asked for"))


def _with(state: Any, status: int, session_id: str = "") -> Any:
    after = pb.Voucher()
    after.CopyFrom(state)
    after.status, after.session_id = status, session_id
    return pb.VoucherPut(voucher=after)


def fold(state: Any, event: Any) -> Any:
    """Apply one event."""
    after = pb.Voucher()
    change = event.WhichOneof("change")
    if state is not None:
        after.CopyFrom(state)
    if change in ("voucher_created", "voucher_redeemed", "voucher_expired"):
        after.CopyFrom(getattr(event, change).voucher)
    if state is None:
        after.created_at.CopyFrom(event.time)
    after.version = event.version
    after.updated_at.CopyFrom(event.time)
    return after


def _index(voucher: Any) -> Index:
    return Index(
        created_ns=voucher.created_at.ToNanoseconds(),
        status=voucher.status,
        owner=voucher.session_id,
        labels=(("currency", voucher.worth.currency),),
    )


def _rows(ref: Ref, change: str, event: Any, time_ns: int) -> tuple[Row, ...]:
    if change != "voucher_redeemed":
        return ()
    worth = event.voucher_redeemed.voucher.worth
    return (Row(VOUCHER_ROWS, ref.id, ref, time_ns, worth.SerializeToString()),)


def _require_open(voucher: Any) -> None:
    if voucher.status == pb.VOUCHER_STATUS_REDEEMED:
        raise SessionClosed(f"voucher {voucher.voucher_id!r} was redeemed")
    if voucher.status == pb.VOUCHER_STATUS_EXPIRED:
        raise SessionExpired(f"voucher {voucher.voucher_id!r} has expired")


def _is_overdue(voucher: Any, now_ns: int) -> bool:
    active: bool = voucher.status == pb.VOUCHER_STATUS_ACTIVE
    return active and bool(now_ns >= voucher.expires_at.ToNanoseconds())


def _wake_at_ns(voucher: Any) -> int | None:
    active = voucher.status == pb.VOUCHER_STATUS_ACTIVE
    return voucher.expires_at.ToNanoseconds() if active else None


def _expiry(voucher: Any) -> Any:
    return pb.Event(voucher_expired=_with(voucher, pb.VOUCHER_STATUS_EXPIRED))


def _too_large(size: int, limit: int) -> MaitredError:
    return RequestTooLarge(f"the voucher takes {size} bytes, at most {limit} fit")


KIND = Aggregate(
    number=VOUCHER,
    name="voucher",
    state=pb.Voucher,
    event=pb.Event,
    changes=changes.marks(pb.Event),
    fold=fold,
    absent=InvalidSession,
    gone=SessionDeleted,
    source=60,
    index=_index,
    rows=_rows,
    tables=(VOUCHER_ROWS,),
    life=Life(
        require_open=_require_open,
        is_overdue=_is_overdue,
        expire=_expiry,
        expired=SessionExpired,
        as_expired=lambda voucher: _with(voucher, pb.VOUCHER_STATUS_EXPIRED).voucher,
        active_status=pb.VOUCHER_STATUS_ACTIVE,
        expired_status=pb.VOUCHER_STATUS_EXPIRED,
        expires_at_s=lambda _voucher, _event, _now_ns: None,
        wake_at_ns=_wake_at_ns,
        tick=lambda voucher, now_ns: _expiry(voucher) if _is_overdue(voucher, now_ns) else None,
        swept=lambda _event: "expired",
    ),
    most_bytes=2048,
    too_large=_too_large,
    keeps=Keep(tables=(VOUCHER_ROWS,), spaces=(RECEIPTS,)),
)
