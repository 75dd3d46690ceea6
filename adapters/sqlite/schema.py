"""The schema of a journal file, format version 1. `docs/journal.md` explains it to users."""

from __future__ import annotations

APPLICATION_ID = 0x524F4F4E
"""`ROON`: how `file` and we recognise a journal."""
FORMAT_VERSION = 1
"""`PRAGMA user_version`. A newer file is refused."""

TABLES = """
CREATE TABLE events (
    seq         INTEGER PRIMARY KEY,
    ts_ns       INTEGER NOT NULL,
    ts_event    INTEGER,
    type        TEXT    NOT NULL,
    version     INTEGER NOT NULL,
    source      TEXT    NOT NULL,
    incarnation INTEGER NOT NULL,
    cause       INTEGER,
    idx         INTEGER NOT NULL,
    corr        INTEGER,
    root        TEXT,
    payload     ANY     NOT NULL,
    hash        BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX one_answer  ON events(source, cause, idx) WHERE cause IS NOT NULL;
CREATE UNIQUE INDEX one_intent  ON events(json_extract(payload, '$.signal_id')) WHERE type = 'OrderRequested';
CREATE UNIQUE INDEX one_attempt ON events(json_extract(payload, '$.signal_id'), json_extract(payload, '$.attempt'))
    WHERE type = 'OrderSubmitted';

CREATE TABLE head (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    seq    INTEGER NOT NULL,
    hash   BLOB    NOT NULL,
    status TEXT    NOT NULL CHECK (status IN ('open', 'stopped', 'closed', 'recovered'))
) STRICT;
"""

TRIGGERS = """
CREATE TRIGGER events_without_gap BEFORE INSERT ON events
WHEN NEW.seq <> 1 + coalesce((SELECT max(seq) FROM events), 0)
BEGIN SELECT RAISE(ABORT, 'seq must follow the last one'); END;

CREATE TRIGGER events_sealed BEFORE INSERT ON events
WHEN (SELECT status FROM head) = 'closed'
BEGIN SELECT RAISE(ABORT, 'the session is closed'); END;

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;

CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;

CREATE TRIGGER head_no_delete BEFORE DELETE ON head
BEGIN SELECT RAISE(ABORT, 'the head only moves forward'); END;

CREATE TRIGGER head_forward BEFORE UPDATE ON head
WHEN NEW.seq < OLD.seq OR OLD.status = 'closed'
BEGIN SELECT RAISE(ABORT, 'the head only moves forward'); END;
"""

_BAR_COLUMNS = """
    json_extract(bar.value, '$.ts_start') AS ts_start_ns, json_extract(bar.value, '$.ts_end') AS ts_end_ns,
    json_extract(bar.value, '$.root') AS root, json_extract(bar.value, '$.contract') AS contract,
    json_extract(bar.value, '$.open') AS open, json_extract(bar.value, '$.high') AS high,
    json_extract(bar.value, '$.low') AS low, json_extract(bar.value, '$.close') AS close,
    json_extract(bar.value, '$.volume') AS volume, json_extract(bar.value, '$.trades') AS trades,
    json_extract(bar.value, '$.is_outside_hours') AS is_outside_hours
"""

VIEWS: dict[str, str] = {
    "decisions": """
        SELECT seq, json_extract(payload, '$.ts') AS ts_ns, root,
               json_extract(payload, '$.contract') AS contract, json_extract(payload, '$.ibs') AS ibs,
               json_extract(payload, '$.gates') AS gates,
               json_extract(payload, '$.probability') AS probability,
               json_extract(payload, '$.threshold') AS threshold,
               json_extract(payload, '$.verdict') AS verdict, json_extract(payload, '$.reason') AS reason
        FROM events WHERE type = 'SignalEvaluated'
    """,
    "vetoes": """
        SELECT seq, json_extract(payload, '$.ts') AS ts_ns, root, json_extract(payload, '$.digest') AS digest,
               json_extract(payload, '$.probability') AS probability,
               json_extract(payload, '$.threshold') AS threshold,
               json_extract(payload, '$.is_passed') AS is_passed, json_extract(payload, '$.bias') AS bias,
               json_extract(payload, '$.values') AS input_values,
               json_extract(payload, '$.contributions') AS contributions
        FROM events WHERE type = 'VetoScored'
    """,
    "orders": """
        SELECT seq, type, root, json_extract(payload, '$.signal_id') AS signal_id,
               json_extract(payload, '$.attempt') AS attempt, payload
        FROM events
        WHERE type IN ('OrderRequested', 'RiskDecided', 'OrderSubmitted', 'OrderAccepted', 'OrderRejected',
                       'OrderAmbiguous', 'OrderNotSent', 'OrderExpired', 'FillAssumed')
    """,
    "bars": " UNION ALL ".join(
        f"SELECT seq, '{timeframe}' AS timeframe, {_BAR_COLUMNS} "
        f"FROM events, json_each(events.payload, '$.{field}') AS bar WHERE events.type = 'SliceClosed'"
        for timeframe, field in (("1m", "minutes"), ("1h", "hours"), ("1d", "days"))
    ),
    "restarts": """
        SELECT seq, ts_ns, type, json_extract(payload, '$.actor') AS actor,
               json_extract(payload, '$.at_seq') AS at_seq, json_extract(payload, '$.error') AS error
        FROM events WHERE type IN ('ActorCrashed', 'ActorRestarted')
    """,
}

INSERT_EVENT = "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
ROWS_PER_INSERT = 64
"""As many forms of `insert_events` as a connection keeps prepared, and not more."""


def insert_events(count: int) -> str:
    """INSERT_EVENT for `count` rows at once, their values one after another.

    One statement gives up the interpreter's lock once; `executemany` does for each row, and may wait for it as often.
    """
    row = INSERT_EVENT.partition("VALUES ")[2]
    return INSERT_EVENT + f", {row}" * (count - 1)


MOVE_HEAD = "UPDATE head SET seq = ?, hash = ?, status = ? WHERE id = 1"
