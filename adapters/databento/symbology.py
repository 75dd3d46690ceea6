"""What the symbols of recorded data mean: raw, continuous and parent symbols to instrument ids.

It answers from the mappings of the files and the volumes traded in them. It never
asks the vendor, and it never guesses a contract's name that no file states.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import attrs

from domain.instruments import ContractName, parse_contract
from domain.units import SECOND, Nanos


@attrs.frozen(kw_only=True)
class MappedSymbol:
    """What one symbol of a file meant on the UTC dates from `start` to `end` (exclusive).

    `symbol` is what the file was asked for: the exchange's name, or a continuous
    symbol (`ES.v.0`), of which the file states the id and not the contract.
    """

    symbol: str
    instrument_id: int
    start: dt.date
    end: dt.date


@attrs.frozen(kw_only=True)
class Instrument:
    """One instrument of a feed: the id in its records and the exchange's name."""

    instrument_id: int
    raw_symbol: str


@attrs.frozen(kw_only=True, eq=False)
class RecordedSymbology:
    """The mappings of one or more files, in a fixed order, and the volume of each instrument."""

    mappings: tuple[MappedSymbol, ...]
    volumes: Mapping[dt.date, Mapping[int, int]]
    """Contracts traded per UTC date, in order, and instrument id."""
    products: Mapping[str, str] = attrs.Factory(dict)
    """By raw symbol the product whose parent stands for it, where a definition says so; "" for none (an option)."""

    def resolve(self, stype_in: str, symbol: str, at_ns: Nanos) -> tuple[Instrument, ...]:
        """The instruments that `symbol` means at `at_ns`; empty when the files do not know it.

        `continuous` ranks the outrights of the product: `v` and `n` by the volume of the last UTC date
        before (on the first one by its own; rank 1 is the next expiry after rank 0 where there is one,
        else the next by volume), `c` by expiry. `parent` (`GC.FUT`) is every outright and spread of the product.
        """
        date = dt.datetime.fromtimestamp(at_ns // SECOND, tz=dt.UTC).date()
        if stype_in == "raw_symbol":
            names = self._symbols() if symbol == "ALL_SYMBOLS" else [symbol]
        elif stype_in == "instrument_id":
            named = [m for m in self.mappings if str(m.instrument_id) == symbol][:1]
            return tuple(Instrument(instrument_id=m.instrument_id, raw_symbol=m.symbol) for m in named)
        elif stype_in == "parent":
            names = self._children(symbol)
        elif stype_in == "continuous":
            names = [symbol] if symbol in self._symbols() else self._ranked(symbol, date)
        else:
            names = []
        found = (self._instrument(name, date) for name in names)
        return tuple(instrument for instrument in found if instrument is not None)

    def _symbols(self) -> list[str]:
        return list(dict.fromkeys(mapping.symbol for mapping in self.mappings))

    def _instrument(self, symbol: str, date: dt.date) -> Instrument | None:
        """The instrument of `symbol` on `date`, else in the interval that is nearest to it."""
        intervals = [m for m in self.mappings if m.symbol == symbol]
        if not intervals:
            return None
        nearest = min(intervals, key=lambda m: _days_outside(m, date))
        # A file that was asked for continuous symbols does not know the contract's name: its id stands in.
        is_continuous = ".v." in symbol or ".c." in symbol or ".n." in symbol
        name = str(nearest.instrument_id) if is_continuous else symbol
        return Instrument(instrument_id=nearest.instrument_id, raw_symbol=name)

    def _children(self, parent: str) -> list[str]:
        product, dot, kind = parent.partition(".")
        if not dot or kind != "FUT" or not product:
            return []
        return [s for s in self._symbols() if self.products.get(s, product if _is_child(s, product) else "") == product]

    def _ranked(self, symbol: str, date: dt.date) -> list[str]:
        parts = symbol.split(".")
        if len(parts) != 3 or parts[1] not in ("c", "n", "v") or not parts[2].isdecimal():
            return []
        product, rule, rank = parts[0], parts[1], int(parts[2])
        by_expiry = self._outrights(product, date)
        order = [raw for _, raw, _ in by_expiry] if rule == "c" else _by_volume(by_expiry)
        return order[rank : rank + 1]

    def _outrights(self, product: str, date: dt.date) -> list[tuple[ContractName, str, int]]:
        """(contract, raw symbol, volume) of every outright of `product`, by expiry."""
        named = {raw: parse_contract(raw, (product,), date) for raw in self._symbols()}
        ids = {raw: {m.instrument_id for m in self.mappings if m.symbol == raw} for raw, name in named.items() if name}
        volumes = self._volumes_before(date, {key for keys in ids.values() for key in keys})
        found = [
            (name, raw, sum(volumes.get(key, 0) for key in sorted(ids[raw]))) for raw, name in named.items() if name
        ]
        return sorted(found, key=lambda item: (item[0].expiry.year, item[0].expiry.month))

    def _volumes_before(self, date: dt.date, ids: set[int]) -> Mapping[int, int]:
        """What was traded on the last date before `date` on which any of `ids` was, else on the first one after."""
        dates = [day for day, volumes in self.volumes.items() if not ids.isdisjoint(volumes)]
        earlier = [day for day in dates if day < date]
        chosen = earlier[-1:] or dates[:1]
        return self.volumes[chosen[0]] if chosen else {}


def _by_volume(by_expiry: Sequence[tuple[ContractName, str, int]]) -> list[str]:
    """Raw symbols by rank: the busiest, the expiry after it, then the others by volume."""
    if not by_expiry:
        return []
    volumes = {raw: volume for _, raw, volume in by_expiry}
    names = list(volumes)
    front = max(names, key=lambda raw: volumes[raw])
    later = names[names.index(front) + 1 :][:1]
    rest = [raw for raw in names if raw != front and raw not in later]
    return [front, *later, *sorted(rest, key=lambda raw: -volumes[raw])]


def _days_outside(mapping: MappedSymbol, date: dt.date) -> int:
    if date < mapping.start:
        return (mapping.start - date).days
    return max(0, (date - mapping.end).days + 1)


def _is_child(symbol: str, product: str) -> bool:
    """Whether `symbol` is an outright of `product`, a spread that begins with one (`MCLF6-BZF6`) or `MCL:SA 03M F6`."""
    # The decade of the year does not matter here, only the grammar: any date will do.
    leg = symbol.partition("-")[0]
    return symbol.startswith(f"{product}:") or parse_contract(leg, (product,), dt.date(2000, 1, 1)) is not None
