"""The life of one order, from the strategy's request to its end.

A pure state machine on events: `evolve` refuses a transition that its table does
not hold, because an order in an impossible state is a bug and not a case.
A 200 from TradersPost means *received*: ACCEPTED is never a fill. An attempt whose
outcome cannot be known is AMBIGUOUS and, for an entry, never sent again.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Literal

import attrs

from domain.errors import OurError
from domain.units import Nanos, Price

Intent = Literal["entry", "exit", "cancel"]
"""`cancel` ends what works at TradersPost and trades nothing; only a safe stop asks for it."""
Side = Literal["buy", "sell"]
OrderType = Literal["market", "limit"]


class OrderState(enum.Enum):
    """Where an order stands."""

    REQUESTED = "requested"
    REFUSED = "refused"
    QUEUED = "queued"
    """Allowed, waiting for the ticker's earlier attempt or for the next try."""
    SUBMITTED = "submitted"
    """An attempt is on record; its outcome is not."""
    ACCEPTED = "accepted"
    """Received; an exit stays here until it is filled and its one repeat is over."""
    REJECTED = "rejected"
    AMBIGUOUS = "ambiguous"
    EXPIRED = "expired"
    FILLED = "filled"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = frozenset({OrderState.REFUSED, OrderState.REJECTED, OrderState.EXPIRED, OrderState.FILLED})

_FILLING = frozenset({OrderState.ACCEPTED, OrderState.SUBMITTED, OrderState.QUEUED})

TRANSITIONS: dict[OrderState, frozenset[OrderState]] = {
    OrderState.REQUESTED: frozenset({OrderState.REFUSED, OrderState.QUEUED}),
    OrderState.QUEUED: frozenset({OrderState.SUBMITTED, OrderState.EXPIRED}),
    OrderState.SUBMITTED: frozenset(
        {OrderState.ACCEPTED, OrderState.REJECTED, OrderState.AMBIGUOUS, OrderState.QUEUED, OrderState.EXPIRED}
    ),
    # An exit is repeated once after it was accepted; a limit entry that was touched when its time
    # ended may have been filled.
    OrderState.ACCEPTED: frozenset({OrderState.FILLED, OrderState.EXPIRED, OrderState.SUBMITTED, OrderState.AMBIGUOUS}),
    # An ambiguous exit is sent again; an ambiguous entry stays until it is known what its root holds.
    OrderState.AMBIGUOUS: frozenset({OrderState.QUEUED, OrderState.EXPIRED, OrderState.FILLED}),
    OrderState.REFUSED: frozenset(),
    OrderState.REJECTED: frozenset(),
    OrderState.EXPIRED: frozenset(),
    OrderState.FILLED: frozenset(),
}


@attrs.frozen(kw_only=True)
class Order:
    """One intent on its way; what the strategy asked plus where it stands."""

    signal_id: str
    root: str
    contract: str
    intent: Intent
    side: Side
    quantity: int
    order_type: OrderType
    limit_price: Price | None
    reference_price: Price
    """The last close when it was decided: what an UNKNOWN position is valued from."""
    decided_ns: Nanos
    """The end of the bar (or the deadline) that decided it."""
    expires_ns: Nanos | None
    """An entry not sent by then is dropped; None for an exit, which never is."""
    ticker: str
    body: str
    """The exact bytes of every attempt, as text."""
    fallback: str = ""
    """Of an exit: the least that closes a position, sent once when `body` is refused."""
    stop_price: Price | None = None
    target_price: Price | None = None
    """Of an entry: legs that rest at the broker once it is filled."""
    cancels_working: bool = False
    is_flatten: bool = False
    state: OrderState = OrderState.REQUESTED
    attempt: int = 0
    not_before_ns: Nanos = Nanos(0)
    """Earliest time of the next attempt while QUEUED."""
    sent_ns: Nanos | None = None
    """When its last attempt was submitted: from then on it may be working at the broker."""
    accepted_ns: Nanos | None = None
    filled_ns: Nanos | None = None
    repeat_ns: Nanos | None = None
    """When an accepted exit is sent a second time; None before and after."""
    is_touched: bool = False
    """A limit entry's price was traded at, not through: it may have been filled."""
    is_last_try: bool = False
    """Of an exit: the fallback has been taken."""
    is_superseded: bool = False
    """A newer intent has taken its place: its attempt's outcome is awaited, and nothing sent again."""
    paged_ns: Nanos | None = None
    """When the operator was last told that this exit is overdue."""

    @property
    def is_filling(self) -> bool:
        """Accepted, and not filled yet."""
        return self.accepted_ns is not None and self.filled_ns is None and self.state in _FILLING

    def moved(self, state: OrderState) -> Order:
        """The order in `state`. Raises OurError when the table does not hold the step."""
        if state not in TRANSITIONS[self.state]:
            raise OurError(f"order {self.signal_id}: {self.state.value} cannot become {state.value}")
        return attrs.evolve(self, state=state)


def signal_id(
    *,
    session: str,
    strategy: str,
    root: str,
    contract: str,
    intent: Intent,
    side: Side,
    decided_ns: Nanos,
    ordinal: int,
) -> str:
    """The idempotency key of one intent, 32 hexadecimal digits.

    Built from what was decided and never from a sequence number, so that it depends
    neither on batching nor on restarts.
    """
    text = "\x1f".join((session, strategy, root, contract, intent, side, str(decided_ns), str(ordinal)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def backoff_ns(signal: str, attempt: int, *, base_s: float = 1.0, cap_s: float = 30.0) -> Nanos:
    """Wait before the attempt after `attempt`: exponential, capped, with jitter in [0.5, 1.0].

    The jitter is a hash of the order and the attempt, so replay waits the same.
    """
    digest = hashlib.sha256(f"{signal}:{attempt}".encode()).digest()
    jitter = 0.5 + int.from_bytes(digest[:4], "big") / 2**33
    # An exit is tried for hours: past the cap the power would outgrow a float.
    doublings = min(attempt - 1, 30)
    return Nanos(int(min(cap_s, base_s * 2**doublings) * jitter * 1e9))
