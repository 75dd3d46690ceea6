"""What the strategy knows of one root: its plan, its feeds, its window of bars, its position and order."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Any

import attrs

from domain.errors import OperatorError, OurError
from domain.events import RootMemory, SessionOpened, StateCarried
from domain.gates import TimeWindow, parse_window
from domain.ibs import Ibs, StrategySettings
from domain.levels import ATR_BARS, average_range, distances, levels
from domain.orders import Intent
from domain.sessions import SessionHours
from domain.units import HOUR, MINUTE, Nanos, Price

_KEPT_BARS = ATR_BARS
WINDOW_BARS = 250
"""Decision bars of each root that the pivot gate may look back on."""


@attrs.frozen(kw_only=True)
class RootPlan:
    """What the strategy trades of one root.

    `tick_size` is the order product's, on whose grid prices are asked. `held_contracts` are older contracts that a
    carried position or order is in: each has a minute feed of its own, which drives its stops.
    """

    root: str
    contract: str
    quantity: int
    tick_size: Price
    multiplier: Decimal | None = None
    """Of the order product; without it nothing is sized by risk."""
    held_contracts: tuple[str, ...] = ()
    hours: SessionHours | None = None
    """The root's hours of the session that is traded; None in a backtest over many."""


def plans_of(opened: SessionOpened, carried: StateCarried | None) -> tuple[RootPlan, ...]:
    """The plans of the session's traded roots, in its order; a root without a rank-0 contract has none.

    Raises OperatorError when a position or an order is carried in a root without a plan.
    """
    active = {contract.root: contract.raw_symbol for contract in opened.contracts if contract.rank == 0}
    held = _held_contracts(carried, active)
    plans = []
    for root in opened.roots:
        contract = active.get(root.root)
        if not root.is_reference and contract is not None:
            plans.append(
                RootPlan(
                    root=root.root,
                    contract=contract,
                    quantity=root.quantity,
                    tick_size=root.order_spec.tick_size,
                    multiplier=root.order_spec.multiplier,
                    held_contracts=tuple(held.pop(root.root, ())),
                    hours=opened.session.hours_of(root.root),
                )
            )
    if held:
        raise OperatorError(
            f"a position or an order is carried in {', '.join(sorted(held))}, which this session does not trade",
            where="symbols",
            fix="keep the root in the universe until it is flat",
        )
    return tuple(plans)


def _held_contracts(carried: StateCarried | None, active: dict[str, str | None]) -> dict[str, list[str]]:
    """By root with a carried position or unfinished order: its contracts other than the active one."""
    held: dict[str, list[str]] = {}
    if carried is None:
        return held
    places = [(position.root, position.contract) for position in carried.positions]
    places += [(order.root, order.contract) for order in carried.orders if not order.state.is_final]
    for root, contract in places:
        contracts = held.setdefault(root, [])
        if contract != active.get(root) and contract not in contracts:
            contracts.append(contract)
    return held


@attrs.frozen(kw_only=True)
class Holding:
    """A position as the strategy sees it: at or beyond `stop_at`, at or beyond `target_at` it leaves."""

    contract: str
    quantity: int
    opened_ns: Nanos
    stop_at: Price
    target_at: Price
    order_ref: int | None
    """Of the entry; its end without a fill ends an UNKNOWN holding."""
    is_unknown: bool
    average_range: Price | None = None
    """At the entry's decision, where stop or target are counted in it."""

    @property
    def is_short(self) -> bool:
        return self.quantity < 0


def holding_at(
    price: Price,
    settings: StrategySettings,
    *,
    contract: str,
    quantity: int,
    opened_ns: Nanos,
    order_ref: int | None,
    is_unknown: bool,
    average_range: Price | None = None,
) -> Holding:
    """The holding filled at `price`, its levels mirrored when it is short.

    Raises OurError for a position of nothing.
    """
    if not quantity:
        raise OurError(f"{contract}: a holding of nothing")
    stop, target = levels(price, distances(price, settings, average_range), is_short=quantity < 0)
    return Holding(
        contract=contract,
        quantity=quantity,
        opened_ns=opened_ns,
        stop_at=stop,
        target_at=target,
        order_ref=order_ref,
        is_unknown=is_unknown,
        average_range=average_range,
    )


@attrs.frozen(kw_only=True)
class DecisionBar:
    """What of a decision bar decides; `start` inclusive, `end` exclusive."""

    start: Nanos
    end: Nanos
    close: Price
    ibs: Ibs
    is_whole: bool = True
    """False when records of it were lost (RootReset)."""


class FeedReader:
    """One of Backtrader's feeds, and whether it has a bar in this turn."""

    __slots__ = ("_first", "_seen", "close", "data", "is_fresh", "stamp")

    def __init__(self, data: Any) -> None:
        self.data = data
        self.stamp, self.close = data.lines.datetime, data.lines.close
        self._first, self._seen = data.lines[0], 0
        self.is_fresh = False

    def poll(self) -> bool:
        """True when a bar has come since the last call: once a turn, for every feed."""
        # lencount directly: len() of a feed is four calls, for every feed in every turn.
        count = self._first.lencount
        self.is_fresh = count != self._seen
        self._seen = count
        return self.is_fresh


class RootState:
    """Everything that changes: windows, holding, unfinished order, the exit that is due, counters.

    `exit_due` is the reason of an exit that has been decided and not yet filled: it stays.
    """

    def __init__(
        self, plan: RootPlan, settings: StrategySettings, minutes: dict[str, FeedReader], decisions: FeedReader
    ) -> None:
        self.plan, self.settings, self.minutes, self.decisions = plan, settings, minutes, decisions
        self.readers = (*minutes.values(), *(() if decisions in minutes.values() else (decisions,)))
        self.windows: tuple[TimeWindow, ...] = tuple(parse_window(text) for text in settings.entry_windows)
        self.decision_ns = HOUR if settings.decision_timeframe == "1h" else MINUTE
        self.highs: deque[Price] = deque(maxlen=_KEPT_BARS)
        self.lows: deque[Price] = deque(maxlen=_KEPT_BARS)
        self.closes: deque[Price] = deque(maxlen=_KEPT_BARS)
        self.completed = 0
        self.whole_from = Nanos(0)
        """Decision bars that start earlier lack records."""
        self.holding: Holding | None = None
        self.order_ref: int | None = None
        self.order_intent: Intent | None = None
        self._ordered_range: Price | None = None
        self.exit_due = ""
        self.exit_retry_ns = Nanos(0)
        self.exit_asks = 0
        self.is_auto_close_asked = False
        self.bars_held = 0
        self.cooldown_left = 0
        self.last_exit_reason = ""
        self.was_short = False
        """The side of the position that was closed last."""
        self.is_halted = False
        """Its evaluation has failed: nothing of it is looked at any more."""
        self.is_reopening = False
        """What a roll has closed may be entered again, at the first decision bar only."""

    def reset(self, since: Nanos) -> None:
        """The windows start anew; what is held, ordered or due stays."""
        self.highs.clear()
        self.lows.clear()
        self.closes.clear()
        self.completed, self.whole_from = 0, since

    def add(self, high: Price, low: Price, close: Price) -> None:
        """A completed decision bar."""
        self.highs.append(high)
        self.lows.append(low)
        self.closes.append(close)
        self.completed += 1

    def average_range(self) -> Price | None:
        """Of the decision bars until now, where an entry needs it."""
        return average_range(self.highs, self.lows, self.closes) if self.settings.uses_atr else None

    def await_order(self, ref: int, intent: Intent, ordered_range: Price | None = None) -> None:
        """Nothing else is asked for this root until the order has ended."""
        self.order_ref, self.order_intent, self._ordered_range = ref, intent, ordered_range

    def forget_order(self) -> None:
        self.order_ref = self.order_intent = self._ordered_range = None

    def hold(self, holding: Holding) -> None:
        """A new position, or a better knowledge of the one held."""
        if self.holding is None or self.holding.order_ref != holding.order_ref:
            self.forget_holding()
            self.exit_retry_ns, self.exit_asks = Nanos(0), 0
        self.holding = holding

    def leave(self, reason: str) -> None:
        """The position is closed: the cooldown starts."""
        if self.holding is not None:
            self.was_short = self.holding.is_short
        self.last_exit_reason = reason
        after_stop = self.settings.cooldown_after_stop_bars if reason == "stop" else 0
        # A roll's close is no judgement of the market.
        self.cooldown_left = 0 if reason == "roll" else max(self.settings.cooldown_bars, after_stop)
        self.forget_holding()

    def forget_holding(self) -> None:
        self.holding, self.bars_held, self.exit_due, self.is_auto_close_asked = None, 0, "", False

    def memory(self) -> RootMemory:
        """What the next session needs. With a position, `last_exit_reason` is the exit that is due."""
        return RootMemory(
            root=self.plan.root,
            bars_held=self.bars_held,
            cooldown_left=self.cooldown_left,
            last_exit_reason=self.last_exit_reason if self.holding is None else self.exit_due,
            average_range=self._ordered_range if self.holding is None else self.holding.average_range,
            was_short=self.was_short,
        )

    def restore(self, memory: RootMemory) -> None:
        """Take up a memory; call it after the holding has been restored."""
        self.bars_held, self.cooldown_left = memory.bars_held, memory.cooldown_left
        self.was_short = memory.was_short
        if self.holding is None:
            self.last_exit_reason = memory.last_exit_reason
        else:
            self.exit_due = memory.last_exit_reason
