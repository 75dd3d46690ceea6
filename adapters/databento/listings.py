"""What a DBN file says of its instruments: the mappings of any file, the records of a definition file.

Both become `Listing`s, from which `domain.allow_list` makes the ids that may become bars.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from databento import BentoError, DBNStore
from databento.common.error import BentoWarning
from databento_dbn import DBNError, InstrumentDefMsg, Metadata

from adapters.databento.dbn_files import mappings_of
from domain.allow_list import Listing
from domain.errors import OperatorError
from domain.units import PRICE_SCALE, SECOND, UNDEF_PRICE, Price

SCHEMA = "definition"
_DAY = dt.timedelta(days=1)


def listings_of(metadata: Metadata) -> tuple[Listing, ...]:
    """What each id of a file means and when, by the file's own mappings.

    Continuous symbols (`ES.v.0`) are left out: they name a rule and not a contract, so a file that was asked
    for them needs the raw symbols of its ids from elsewhere.
    """
    return tuple(
        Listing(instrument_id=m.instrument_id, raw_symbol=m.symbol, start=m.start, end=m.end)
        for m in mappings_of(metadata)
        if "." not in m.symbol
    )


def read_definitions(path: Path) -> tuple[Listing, ...]:
    """The instruments of a file of schema `definition`, each for the UTC day of its record, in the file's order.

    Raises OperatorError (exit code 78) for a file that cannot be read or is of another schema.
    """
    if not path.is_file():
        raise _refused(path, "there is no such file")
    try:
        store = DBNStore.from_file(path)
        if str(store.schema) != SCHEMA:
            raise _refused(path, f"schema {store.schema or 'mixed'}, not definition")
        with warnings.catch_warnings():
            warnings.simplefilter("error", BentoWarning)  # which is all the library does about a file that is cut off
            return tuple(_listings(store))
    except (OSError, ValueError, BentoError, BentoWarning, DBNError) as error:
        raise _refused(path, str(error)) from error


def _listings(store: DBNStore) -> Iterator[Listing]:
    for record in store:
        if isinstance(record, InstrumentDefMsg):  # of older versions too: the store upgrades them
            date = dt.datetime.fromtimestamp(record.ts_recv // SECOND, tz=dt.UTC).date()
            tick, quantity = record.min_price_increment, record.unit_of_measure_qty
            yield Listing(
                instrument_id=record.instrument_id,
                raw_symbol=record.raw_symbol,
                start=date,
                end=date + _DAY,
                instrument_class=str(record.instrument_class),
                tick_size=None if tick == UNDEF_PRICE else Price(tick),
                multiplier=None if quantity == UNDEF_PRICE else Decimal(quantity) / PRICE_SCALE,
            )


def _refused(path: Path, what: str) -> OperatorError:
    return OperatorError(what, where=str(path), fix="download the instruments' definitions as DBN, schema definition")
