"""The vendor's Historical API: which contracts there were, what their bars cost, and the bars themselves.

The vendor's own client speaks; it neither retries nor tells a cut stream from a whole one, so that is done
here. Fetched are raw contracts, never continuous symbols: `MES.v.0` changes its meaning at 00:00 UTC, inside
a session, and both contracts are needed in the hour before a roll. What `MES.v.0` and `.v.1` were on each date
is asked first (no charge), and each month is fetched for every contract that was one of them then or within
the next week.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import attrs
from databento.common.enums import HistoricalGateway
from databento.common.error import BentoError, BentoHttpError
from databento.historical.api.metadata import MetadataHttpAPI
from databento.historical.api.symbology import SymbologyHttpAPI
from databento.historical.api.timeseries import TimeseriesHttpAPI
from databento_dbn import DBNError
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException

from adapters.databento.hour_files import contract_of, read_bars
from domain.errors import OperatorError
from domain.history import Span
from domain.sessions import to_nanos
from domain.units import HOUR, MINUTE, SECOND, Nanos

RANKS = (0, 1)
LOOK_AHEAD = dt.timedelta(days=7)
"""A contract that comes to the front this soon after a month has to be there before, for the difference."""
_TOO_MANY = frozenset({408, 429})
_REFUSED = frozenset({401, 403})
_EXIT_UNREACHABLE = 69
_EXIT_TRY_AGAIN = 75
_EXIT_REFUSED = 78

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Patience:
    """How a request is tried again: `attempts` in all, the pauses doubling from `first_s` to `longest_s`."""

    attempts: int = 6
    first_s: float = 1.0
    longest_s: float = 60.0


@attrs.frozen(kw_only=True)
class Listing:
    """A contract that was among the first two of its product on the UTC dates from `start` to `end` (exclusive)."""

    raw_symbol: str
    start: dt.date
    end: dt.date


class HistoricalData:
    """One account at the vendor's Historical API."""

    def __init__(
        self,
        key: str,
        *,
        length: Nanos = HOUR,
        gateway: str | None = None,
        patience: Patience | None = None,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`length`: of the bars, an hour or a minute. `gateway`: another server than the vendor's, on this machine;
        `on_wait` is told why a request is repeated.

        Raises OperatorError for a gateway that a key must not be sent to.
        """
        address = gateway or str(HistoricalGateway.BO1.value)
        if gateway is not None and urlsplit(gateway).hostname not in ("127.0.0.1", "localhost", "::1"):
            raise OperatorError(
                f"{gateway} is not on this machine", where="--gateway", fix="leave it out for Databento", exit_code=2
            )
        # Not `db.Historical`, which bundles these: it makes https of every address.
        self._metadata = MetadataHttpAPI(key, address)
        self._symbology = SymbologyHttpAPI(key, address)
        self._timeseries = TimeseriesHttpAPI(key, address)
        self._length: Nanos = length
        self._schema = "ohlcv-1m" if length == MINUTE else "ohlcv-1h"
        self._address = address
        self._patience = patience or Patience()
        self._on_wait = on_wait

    def available_until(self, dataset: str) -> Nanos:
        """The exclusive end of what there is. Raises OperatorError like every other request."""
        found: Mapping[str, Any] = self._ask(lambda: self._metadata.get_dataset_range(dataset))
        schemas = found.get("schema")
        span = schemas.get(self._schema, found) if isinstance(schemas, Mapping) else found
        try:
            # The vendor writes nine decimals, of which a datetime reads six.
            return to_nanos(dt.datetime.fromisoformat(str(span["end"])[:19]).replace(tzinfo=dt.UTC))
        except (KeyError, ValueError) as error:
            raise self._nonsense("metadata.get_dataset_range", found) from error

    def listings(
        self, dataset: str, products: Collection[str], start: dt.date, end: dt.date
    ) -> dict[str, list[Listing]]:
        """By product, which contracts were its first two by volume on the UTC dates from `start` to `end`."""
        asked = {f"{product}.v.{rank}": product for product in products for rank in RANKS}
        ids = self._resolve(dataset, list(asked), ("continuous", "instrument_id"), (start, end))
        numbers = sorted({each["s"] for found in ids.values() for each in found})
        names = self._resolve(dataset, numbers, ("instrument_id", "raw_symbol"), (start, end))
        listings: dict[str, list[Listing]] = {product: [] for product in products}
        for symbol, found in ids.items():
            product = asked.get(symbol, "")
            for wanted in found:
                for named in names.get(wanted["s"], ()):
                    first = max(_date(wanted["d0"]), _date(named["d0"]))
                    last = min(_date(wanted["d1"]), _date(named["d1"]))
                    # An id may be another product's on other dates.
                    if first < last and contract_of(named["s"], first, (product,)) is not None:
                        listings[product].append(Listing(raw_symbol=named["s"], start=first, end=last))
        return listings

    def cost(self, dataset: str, symbols: Sequence[str], span: Span) -> Decimal:
        """US dollars for the bars of `symbols` in `span`."""
        answer = self._ask(
            lambda: self._metadata.get_cost(dataset, span.start, span.end, symbols=list(symbols), schema=self._schema)
        )
        if not isinstance(answer, int | float):
            raise self._nonsense("metadata.get_cost", answer)
        return Decimal(str(answer))

    def download(self, dataset: str, symbols: Sequence[str], span: Span, part: Path, products: Collection[str]) -> Span:
        """Write the bars of `symbols` to `part`, whole and readable; the span that they answer for."""

        def attempt() -> Span:
            part.unlink(missing_ok=True)
            try:
                self._timeseries.get_range(
                    dataset, span.start, span.end, symbols=list(symbols), schema=self._schema, path=part
                )
            except (DBNError, ValueError) as error:
                # The client opens what has come as if it were whole.
                raise BentoError(str(error)) from error
            found = read_bars(part, products, self._length)
            if found.schema != self._schema or found.dataset != dataset:
                raise self._nonsense("timeseries.get_range", f"{found.dataset} {found.schema}")
            return Span(
                start=max(span.start, found.covered.start), end=max(span.start, min(span.end, found.covered.end))
            )

        return self._ask(attempt)

    # ------------------------------------------------------------- private

    def _resolve(
        self,
        dataset: str,
        symbols: Sequence[str],
        stypes: tuple[Literal["continuous", "instrument_id"], Literal["instrument_id", "raw_symbol"]],
        dates: tuple[dt.date, dt.date],
    ) -> Mapping[str, Sequence[Mapping[str, str]]]:
        if not symbols:
            return {}
        answer = self._ask(lambda: self._symbology.resolve(dataset, list(symbols), *stypes, *dates))
        found = answer.get("result") if isinstance(answer, Mapping) else None
        if not isinstance(found, Mapping):
            raise self._nonsense("symbology.resolve", answer)
        return {
            symbol: [each for each in intervals if each.get("s") and {"d0", "d1"} <= each.keys()]
            for symbol, intervals in sorted(found.items())
        }

    def _ask(self, request: Callable[[], _T]) -> _T:
        """The answer of `request`, tried again while that can help."""
        patience, attempt = self._patience, 1
        while True:
            pause_s = min(patience.first_s * 2 ** (attempt - 1), patience.longest_s)
            try:
                return request()
            except BentoHttpError as error:
                failure = self._refused(error)
                pause_s = max(pause_s, _retry_after_s(error, patience.longest_s))
            except NoConnection as error:
                failure = self._failed(f"cannot be reached ({_reason(error)})", _EXIT_UNREACHABLE)
            except (BentoError, RequestException) as error:
                failure = self._failed(f"the answer broke off ({_reason(error)})", _EXIT_TRY_AGAIN)
            except OperatorError as error:
                if error.exit_code != 2:
                    raise
                failure = self._failed(f"the answer is not whole ({error.what})", _EXIT_TRY_AGAIN)
            if failure.exit_code == _EXIT_REFUSED or attempt == patience.attempts:
                raise failure
            self._on_wait(f"{failure.what}; again in {pause_s:.0f} s")
            time.sleep(pause_s)
            attempt += 1

    def _failed(self, what: str, exit_code: int) -> OperatorError:
        return OperatorError(
            what,
            where=self._address,
            fix="see to the network, and run the same command again: what is there is not fetched twice",
            exit_code=exit_code,
        )

    def _refused(self, error: BentoHttpError) -> OperatorError:
        if error.http_status >= 500 or error.http_status in _TOO_MANY:
            return self._failed(f"the vendor answered {error}", _EXIT_TRY_AGAIN)
        if error.http_status in _REFUSED:
            return OperatorError(
                f"the key is refused: {error}",
                where=self._address,
                fix="set DATABENTO_API_KEY to a key whose account may use this dataset's history",
            )
        return OperatorError(
            f"the vendor refuses the request: {error}", where=self._address, fix="check --root, --since and the account"
        )

    def _nonsense(self, request: str, answer: object) -> OperatorError:
        return OperatorError(
            f"{request} answered {str(answer)[:200]!r}", where=self._address, fix="try again later",
            exit_code=_EXIT_TRY_AGAIN,
        )  # fmt: skip


def contracts_in(listings: Sequence[Listing], span: Span) -> list[str]:
    """The contracts of `listings` that are wanted for the hours of `span`, by name."""
    first = dt.datetime.fromtimestamp(span.start // SECOND, dt.UTC).date()
    last = dt.datetime.fromtimestamp((span.end - 1) // SECOND, dt.UTC).date() + LOOK_AHEAD
    return sorted({each.raw_symbol for each in listings if each.start <= last and each.end > first})


def months_of(span: Span) -> list[Span]:
    """`span` cut at the UTC months."""
    months = []
    start = span.start
    while start < span.end:
        date = dt.datetime.fromtimestamp(start // SECOND, dt.UTC).date().replace(day=1)
        following = (date + dt.timedelta(days=32)).replace(day=1)
        end = min(span.end, to_nanos(dt.datetime.combine(following, dt.time(), dt.UTC)))
        months.append(Span(start=start, end=end))
        start = end
    return months


def _date(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def _retry_after_s(error: BentoHttpError, longest_s: float) -> float:
    try:
        return min(float(error.headers.get("Retry-After", 0)), longest_s)
    except (TypeError, ValueError):
        return 0.0


def _reason(error: Exception) -> str:
    """The last cause's words: the library wraps them three times."""
    reason = error
    while reason.args and isinstance(reason.args[-1], Exception):
        reason = reason.args[-1]
    return str(getattr(reason, "reason", None) or reason)[:200]
