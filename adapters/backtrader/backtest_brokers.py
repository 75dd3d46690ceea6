"""The brokers of a backtest: fills made from bars by the rules of `live`, or as a journal has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import backtrader as bt

from adapters.backtrader.broker import RequestNote
from adapters.backtrader.feeds import nanos_of
from adapters.backtrader.tape import Tape
from domain.backtest import BacktestCosts, OrderKey, RecordedOutcome
from domain.ibs import StrategySettings
from domain.units import SECOND, Price, float_to_price, price_to_float

_CASH = 1e15
"""What an account may risk is the risk gate's; here every order is filled."""


class NextBarBroker(bt.brokers.BackBroker):  # type: ignore[misc]  # backtrader has no types
    """Backtrader's broker with the fills of `live`.

    A market order fills at the next bar's open, worse by the slippage; without a trade in time, at the last close.
    A limit order fills at its price once a bar after the decision went at least a tick through it; when its time is
    over it is cancelled, touched or not.
    """

    tape: Tape

    def __init__(self, *, settings: StrategySettings, tick_size: Price, costs: BacktestCosts) -> None:
        super().__init__()
        self.set_cash(_CASH)
        self.set_checksubmit(False)
        self.setcommission(margin=1.0, commtype=bt.CommInfoBase.COMM_FIXED, stocklike=False)
        # Beyond the bar's range too: what live assumes of the first trade.
        slippage = price_to_float(Price(tick_size * costs.slippage_ticks))
        self.set_slippage_fixed(slippage, slip_open=True, slip_match=True, slip_out=True)
        self._cancel_after = settings.cancel_after_s * SECOND
        self._tick_size = tick_size

    def _try_exec_market(self, order: Any, popen: float, phigh: float, plow: float) -> None:
        if self.tape.is_untraded:
            order.addinfo(fill_ns=self.tape.now)
            self._execute(order, ago=0, price=order.data.close[0])
        else:
            super()._try_exec_market(order, popen, phigh, plow)

    def _try_exec_limit(self, order: Any, popen: float, phigh: float, plow: float, plimit: float) -> None:
        note: RequestNote = order.info.request
        data, last = order.data, note.decided_ns + self._cancel_after
        end = nanos_of(data.datetime[0], after=note.decided_ns)
        start = end - round(data.length_s[0] * SECOND)
        if note.decided_ns <= start < last and self._is_through(order.isbuy(), plow, phigh, plimit):
            self._execute(order, ago=0, price=plimit)
        elif self.tape.now >= last:
            self.cancel(order)

    def _is_through(self, is_buy: bool, low: float, high: float, limit: float) -> bool:
        if is_buy:
            return float_to_price(low) <= float_to_price(limit) - self._tick_size
        return float_to_price(high) >= float_to_price(limit) + self._tick_size


class RecordedBroker(NextBarBroker):
    """Fills as a journal has them; a market order that the journal does not know waits for ever."""

    take_up: Callable[[], None]
    """Called each turn: an order that a journal has left unfinished needs a bar to be placed on."""

    def __init__(
        self, outcomes: Mapping[OrderKey, Sequence[RecordedOutcome]], *, settings: StrategySettings, tick_size: Price
    ) -> None:
        super().__init__(settings=settings, tick_size=tick_size, costs=BacktestCosts(slippage_ticks=0))
        self._outcomes = {key: deque(found) for key, found in outcomes.items()}

    def next(self) -> None:
        self.take_up()
        super().next()

    def submit(self, order: Any, check: bool = True) -> Any:
        if self._waiting(order) is not None:
            order.valid = None  # the record says when it ended
        return super().submit(order, check)

    def _waiting(self, order: Any) -> deque[RecordedOutcome] | None:
        note: RequestNote = order.info.request
        return self._outcomes.get((note.root, note.intent, note.decided_ns))

    def _try_exec(self, order: Any) -> None:
        waiting = self._waiting(order)
        if not waiting or waiting[0].known_ns > self.tape.now:
            return
        outcome = waiting.popleft()
        if outcome.price is None:
            order.reject()
            self.notify(order)
            return
        order.addinfo(fill_ns=outcome.ts, confirmed=outcome.confirmed)
        self._execute(order, ago=0, price=price_to_float(outcome.price))
