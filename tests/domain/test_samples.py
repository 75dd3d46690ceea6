"""The predecessor's own record: times of its 100 real ES decisions, and the descriptions of its 12 models."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable

import attrs
import numpy as np
import pytest

from domain.bar_window import Columns
from domain.errors import OperatorError
from domain.features import FEATURES, UNAVAILABLE, VERSIONS, required_inputs, unavailable
from domain.features.patterns import open_close, session_quarter
from domain.gates import auto_close_deadline, parse_window, time_gate
from domain.ibs import StrategySettings
from domain.sessions import STRATEGY_ZONE, to_nanos
from domain.units import HOUR, Nanos
from tests.domain.test_features import reference

pytestmark = pytest.mark.real_data

SETTINGS = StrategySettings()
AUTO_CLOSE, BAR_STOP = "1", "3"
"""Exit codes."""


@attrs.frozen
class Trade:
    """Filled at the open of the hour after the decision bar, which so ends at `fill`."""

    fill: Nanos
    exit: Nanos
    exit_code: str
    net_pnl: float
    is_win: bool

    @property
    def bar_start(self) -> Nanos:
        return Nanos(self.fill - HOUR)


def trades() -> list[Trade]:
    with reference("es_100_feature_vectors.csv").open(newline="") as file:
        return [
            Trade(
                fill=moment(row["fill_time_et"]),
                exit=moment(row["exit_time_et"]),
                exit_code=row["exit_signal_code"],
                net_pnl=float(row["net_pnl_usd"]),
                is_win=row["label_binary"] == "1",
            )
            for row in csv.DictReader(file)
        ]


def moment(text: str) -> Nanos:
    local = dt.datetime.strptime(text, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the file's times are naive
    return to_nanos(local.replace(tzinfo=STRATEGY_ZONE))


def code(of: Callable[[Columns], float], start: int) -> float:
    price = np.ones(1)
    return of(Columns(start=np.array([start]), open=price, high=price, low=price, close=price, volume=price))


def test_every_decision_bar_starts_inside_the_entry_windows() -> None:
    windows = [parse_window(text) for text in SETTINGS.entry_windows]
    found = trades()
    assert sum(time_gate(trade.bar_start, windows).is_passed for trade in found) == len(found) == 100
    assert sum(time_gate(trade.fill, windows).is_passed for trade in found) == 99  # what its close would say


@pytest.mark.parametrize(("column", "as_of_the_close"), [(open_close, 84), (session_quarter, 94)])
def test_time_columns_are_of_the_start_and_differ_from_the_close_as_they_were_measured(
    column: Callable[[Columns], float], as_of_the_close: int
) -> None:
    agreeing = sum(code(column, trade.bar_start) == code(column, trade.fill) for trade in trades())
    assert agreeing == as_of_the_close


def test_all_seven_auto_closes_are_at_the_deadline_and_one_holiday_was_held_beyond_it() -> None:
    """On Presidents' Day there was no bar at 15:00, and the predecessor's auto-close needed one."""
    found = trades()
    deadlines = [deadline_after(trade.fill) for trade in found]
    closed = [(t.exit, deadline) for t, deadline in zip(found, deadlines, strict=True) if t.exit_code == AUTO_CLOSE]
    assert len(closed) == 7
    assert all(exit_ == deadline for exit_, deadline in closed)
    beyond = [trade.fill for trade, deadline in zip(found, deadlines, strict=True) if trade.exit > deadline]
    assert beyond == [moment("2010-02-15 8:00:00")]


def deadline_after(ts: Nanos) -> Nanos:
    """Of the session that holds `ts`: from 17:00 New York on it is named after the next day."""
    date = (dt.datetime.fromtimestamp(ts // 10**9, tz=STRATEGY_ZONE) + dt.timedelta(hours=7)).date()
    close = to_nanos(dt.datetime.combine(date, dt.time(17), STRATEGY_ZONE))
    return auto_close_deadline(SETTINGS, date, close)


def test_all_five_bar_stops_are_at_the_close_of_the_eighth_bar_after_the_fill_bar() -> None:
    stopped = [trade for trade in trades() if trade.exit_code == BAR_STOP]
    assert len(stopped) == 5
    for trade in stopped:
        fill_bar_end = trade.fill + HOUR
        assert trade.exit == fill_bar_end + SETTINGS.exit_after_bars * HOUR


def test_a_label_is_the_sign_of_the_net_result() -> None:
    assert all(trade.is_win == (trade.net_pnl > 0) for trade in trades())


# --------------------------------------------------------------- descriptions

BUNDLES = ("6A", "6B", "6E", "CL", "ES", "GC", "HG", "NG", "NQ", "RTY", "SI", "YM")
NEED_VIX = {"6A": 3, "6B": 1, "CL": 1, "ES": 2, "GC": 1, "HG": 1, "RTY": 2, "SI": 1}
"""How many features of a description are unavailable; of the other four none."""


def features_of_bundle(root: str) -> list[str]:
    features: list[str] = json.loads(reference(f"bundles/{root}_best.json").read_text())["Features"]
    return features


def test_the_inventory_is_what_the_bundles_name_and_the_registry_knows_all_of_it() -> None:
    with reference("feature_inventory.csv").open(newline="") as file:
        inventory = {row["feature"] for row in csv.DictReader(file)}
    assert len(inventory) == 137
    assert {name for root in BUNDLES for name in features_of_bundle(root)} == inventory
    assert inventory <= FEATURES.keys() | UNAVAILABLE.keys()
    assert sorted(inventory & UNAVAILABLE.keys()) == [
        "prev_day_pctxvalue",
        "value_pct",
        "vix_daily_return",
        "vix_hourly_return",
        "vix_hourly_z_score",
    ]


@pytest.mark.parametrize("root", BUNDLES)
def test_every_feature_of_a_description_is_known_or_named_as_unavailable(root: str) -> None:
    features = features_of_bundle(root)
    lacking = [name for name in features if unavailable(name) is not None]
    assert (len(features), len(lacking)) == (30, NEED_VIX.get(root, 0))
    for version in VERSIONS:
        assert set(features) - set(lacking) <= VERSIONS[version].keys()
        if lacking:
            with pytest.raises(OperatorError, match=f"{lacking[0]}.*needs VIX"):
                required_inputs(features, version)
        else:
            assert required_inputs(features, version, pair="NQ")
