"""Reads the CSV exports of TradersPost and Tradovate: fills, and Tradovate's positions.

Which report it is, its header tells: a net position makes it one of positions, our signal id one of TradersPost,
anything else is Tradovate's fills. `HEADERS` names the columns that are looked for; exports change, and the operator
may name others (`--map price="Avg Price"`). Whatever cannot be read is refused with its file and line: a report that
is half understood confirms nothing.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

import attrs

from adapters.yaml_source import did_you_mean
from domain.broker_report import BrokerFill, BrokerPosition, BrokerReport, ReportKind
from domain.errors import OperatorError
from domain.orders import Side
from domain.sessions import to_nanos
from domain.units import Nanos, Price, decimal_to_price

HEADERS: dict[str, tuple[str, ...]] = {
    "signal_id": ("extras.signal_id", "extras signal_id", "signal_id"),
    "extras": ("extras",),
    "symbol": ("contract", "ticker", "symbol"),
    "side": ("b/s", "action", "side"),
    "quantity": ("filled quantity", "filledquantity", "filled qty", "filledqty", "quantity", "qty"),
    "price": (
        "average fill price",
        "avg fill price",
        "averagefillprice",
        "avgfillprice",
        "filled price",
        "fill price",
        "price",
    ),
    "time": ("_timestamp", "filled at", "filledat", "fill time", "timestamp", "created at", "date", "time"),
    "status": ("status",),
    "net_quantity": ("net pos", "netpos", "net position"),
}
"""By our name the headers that are looked for, the best first; case and blanks around them do not matter."""

MAX_BYTES = 64 * 1024 * 1024
_SIDES: dict[str, Side | None] = {
    **dict.fromkeys(("buy", "b", "bot", "bought", "long"), "buy"),
    **dict.fromkeys(("sell", "s", "sld", "sold", "short"), "sell"),
    **dict.fromkeys(("exit", "close", "flatten", ""), None),
}
_NO_FILL = ("rejected", "canceled", "cancelled", "expired", "pending", "open", "working", "failed", "error")
_NUMBER = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")
_AMERICAN = ("%m/%d/%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %H:%M", "%m/%d/%y %H:%M:%S")


def read_report(path: Path, columns: Mapping[str, str], zone: ZoneInfo) -> BrokerReport:
    """The report in `path`. `columns`: headers by our names, over `HEADERS`; `zone`: of stamps that name none.

    Raises OperatorError (exit 2) with file:line.
    """
    header, *rows = list(_rows(path))
    table = _Table(path=path, header=header, columns=_columns(path, header, columns), zone=zone)
    kind: ReportKind = "tradovate_fills"
    if "net_quantity" in table.columns:
        kind = "tradovate_positions"
    elif "signal_id" in table.columns or "extras" in table.columns:
        kind = "traderspost"
    # Without our signal id, contract, side and time are all that a fill is known by.
    needed = {
        "traderspost": ("symbol", "quantity", "price"),
        "tradovate_fills": ("symbol", "side", "quantity", "price", "time"),
        "tradovate_positions": ("symbol", "net_quantity"),
    }[kind]
    for name in needed:
        if name not in table.columns:
            _refuse(f"{path}:{header.number}", f"no column for {name}", f"name it: --map {name}=HEADER")
    if kind == "tradovate_positions":
        last = {position.symbol: position for position in (table.position(row) for row in rows)}
        return BrokerReport(kind=kind, name=path.name, positions=tuple(last.values()))
    fills = (table.fill(row) for row in rows)
    return BrokerReport(kind=kind, name=path.name, fills=tuple(fill for fill in fills if fill is not None))


@attrs.frozen
class _Row:
    number: int
    """The line that it ends at."""
    cells: Sequence[str]


@attrs.frozen(kw_only=True)
class _Table:
    """A header, and how its rows are read."""

    path: Path
    header: _Row
    columns: Mapping[str, int]
    zone: ZoneInfo

    def fill(self, row: _Row) -> BrokerFill | None:
        """The fill in `row`; None for an order that was not filled."""
        quantity, price = self.cell(row, "quantity"), self.cell(row, "price")
        if self.cell(row, "status").lower() in _NO_FILL or not quantity or not price:
            return None
        count = self._whole(row, "quantity")
        if not count:
            return None
        side_text = self.cell(row, "side").lower()
        if side_text not in _SIDES:
            self._refuse(row, f"{side_text!r} is no side", "buy or sell is expected; name the column with --map side=")
        try:
            fill_price = decimal_to_price(self._number(row, "price"))
        except ValueError as error:
            self._refuse(row, f"price: {error}", "look at the line")
        return BrokerFill(
            line=row.number,
            symbol=self.cell(row, "symbol").upper(),
            side=_SIDES[side_text],
            quantity=abs(count),
            price=Price(fill_price),
            ts=self._time(row),
            signal_id=self._signal_id(row),
        )

    def position(self, row: _Row) -> BrokerPosition:
        """The position in `row`."""
        symbol = self.cell(row, "symbol").upper()
        return BrokerPosition(line=row.number, symbol=symbol, quantity=self._whole(row, "net_quantity"))

    def cell(self, row: _Row, name: str) -> str:
        """The text of a column that may be missing."""
        index = self.columns.get(name)
        return "" if index is None else row.cells[index].strip()

    def _signal_id(self, row: _Row) -> str:
        if (found := self.cell(row, "signal_id")) or not (text := self.cell(row, "extras")):
            return found
        try:
            extras = json.loads(text)
        except ValueError:
            self._refuse(row, "extras is no JSON", "name the column of the signal id: --map signal_id=HEADER")
        return str(extras.get("signal_id", "")) if isinstance(extras, dict) else ""

    def _number(self, row: _Row, name: str) -> Decimal:
        text = re.sub(r"[\s$']", "", self.cell(row, name))  # \s holds the narrow blanks that group thousands
        if text.startswith("(") and text.endswith(")"):
            text = f"-{text[1:-1]}"
        if not _NUMBER.fullmatch(text):
            self._refuse(
                row, f"{name}: {self.cell(row, name)!r} is no number", "a point for decimals, commas only for thousands"
            )
        try:
            return Decimal(text.replace(",", ""))
        except InvalidOperation:
            self._refuse(row, f"{name}: {text!r} is no number", "look at the line")

    def _whole(self, row: _Row, name: str) -> int:
        number = self._number(row, name)
        if number != number.to_integral_value() or abs(number) > 1_000_000:
            self._refuse(row, f"{name}: {number} is no count of contracts", "look at the line")
        return int(number)

    def _time(self, row: _Row) -> Nanos | None:
        text = self.cell(row, "time")
        if not text:
            if self.columns.get("time") is not None and "signal_id" not in self.columns:
                self._refuse(row, "a fill without a time", "name the column: --map time=HEADER")
            return None
        moment = _moment(text)
        if moment is None:
            self._refuse(row, f"{text!r} is no time", "ISO 8601 and 05/31/2024 14:30:00 are understood")
        return to_nanos(moment if moment.tzinfo is not None else moment.replace(tzinfo=self.zone))

    def _refuse(self, row: _Row, what: str, fix: str) -> NoReturn:
        _refuse(f"{self.path}:{row.number}", what, fix)


def _rows(path: Path) -> Iterator[_Row]:
    """The header and every row that is not empty. Raises OperatorError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        _refuse(str(path), f"cannot be read: {error.strerror}", "check the path")
    if len(raw) > MAX_BYTES:
        _refuse(str(path), f"more than {MAX_BYTES // 2**20} MiB", "export one session")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        _refuse(f"{path}:{line}", "no UTF-8 text", "save it as CSV in UTF-8")
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    width = 0
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            width = width or len(cells)
            if len(cells) != width:
                where = f"{path}:{reader.line_num}"
                _refuse(where, f"{len(cells)} columns, the header has {width}", "look at its quotes and delimiters")
            yield _Row(reader.line_num, cells)
    except csv.Error as error:
        _refuse(f"{path}:{reader.line_num}", f"no CSV: {error}", "look at its quotes")
    if not width:
        _refuse(f"{path}:1", "it is empty", "export it again")


def _columns(path: Path, header: _Row, named: Mapping[str, str]) -> dict[str, int]:
    places = {cell.strip().lower(): index for index, cell in reversed(list(enumerate(header.cells)))}
    columns = {}
    for name, wanted in named.items():
        if name not in HEADERS:
            _refuse("--map", f"there is no {name!r}", did_you_mean(name, tuple(HEADERS)))
        if wanted.strip().lower() not in places:
            known = [cell.strip() for cell in header.cells]
            _refuse(f"{path}:{header.number}", f"no column {wanted!r}", did_you_mean(wanted, known))
        columns[name] = places[wanted.strip().lower()]
    for name, wanted_headers in HEADERS.items():
        found = next((places[text] for text in wanted_headers if text in places), None)
        if found is not None and name not in columns:
            columns[name] = found
    return columns


def _moment(text: str) -> dt.datetime | None:
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:
        pass
    for form in _AMERICAN:
        try:
            return dt.datetime.strptime(text, form)  # noqa: DTZ007  (the caller knows the zone)
        except ValueError:
            continue
    return None


def _refuse(where: str, what: str, fix: str) -> NoReturn:
    raise OperatorError(what, where=where, fix=fix, exit_code=2)
