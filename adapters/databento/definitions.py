"""Instrument definitions: what a file states about its instruments, or what their names alone say.

Records are DBN version 3 (`InstrumentDefMsg`, 520 bytes), whatever version a file has. A definition made of a name
says what it is a future or a spread by CME's grammar, and leaves undefined what no name tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from databento_dbn import (
    UNDEF_PRICE,
    DBNDecoder,
    InstrumentClass,
    InstrumentDefMsg,
    SecurityUpdateAction,
)

from adapters.databento.symbology import Instrument
from domain.instruments import MONTH_CODES
from domain.units import Nanos, Price

FUTURE = InstrumentClass.from_str("F")
SPREAD = InstrumentClass.from_str("S")
_ADD = SecurityUpdateAction.from_str("A")
_OUTRIGHT = re.compile(rf"([A-Z0-9]+)[{MONTH_CODES}]\d{{1,2}}")


def definitions_in(data: bytes) -> list[InstrumentDefMsg]:
    """Every definition of a whole DBN file, in its order. Raises DBNError or ValueError for what is none."""
    return [record for record in DBNDecoder().write_and_decode(data) if isinstance(record, InstrumentDefMsg)]


def products_of(definitions: Iterable[InstrumentDefMsg]) -> dict[str, str]:
    """The product whose parent symbol (`ES.FUT`) stands for each symbol: its own for futures and spreads, else ""."""
    return {d.raw_symbol: d.asset if str(d.instrument_class) in ("F", "S") else "" for d in definitions}


def definition_of(instrument: Instrument, at_ns: Nanos, tick_size: Price | None = None) -> bytes:
    """What the instrument's name says, as a definition published at `at_ns`."""
    outright = _OUTRIGHT.fullmatch(instrument.raw_symbol)
    asset = outright[1] if outright else re.split(rf"[{MONTH_CODES}]\d|:", instrument.raw_symbol)[0]
    record = InstrumentDefMsg(
        publisher_id=1,
        instrument_id=instrument.instrument_id,
        ts_event=at_ns,
        ts_recv=at_ns,
        min_price_increment=UNDEF_PRICE if tick_size is None else tick_size,
        display_factor=1_000_000_000,
        raw_symbol=instrument.raw_symbol,
        asset=asset,
        security_type="FUT",
        instrument_class=FUTURE if outright else SPREAD,
        security_update_action=_ADD,
        raw_instrument_id=instrument.instrument_id,
        exchange="XCME",
    )
    return bytes(record)
