"""`replay`, `why`, `journal …`, `config show`: commands that read and change nothing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from actors.machines import skips_of
from actors.opening import opening_of
from actors.replay import RecallingCodec, replay
from actors.report import RunningProgram, SegmentReplay, replay_report, replay_words
from actors.veto_models import find_models
from actors.wiring import VERSION, code_digest, library_versions, machine_parts
from adapters.config import describe, find_config, load_config
from adapters.log import redact_tracebacks
from adapters.sqlite.codec import Codec
from adapters.sqlite.journal import JournalFile, segments_of
from domain.errors import JournalBroken, JournalUnreadable
from domain.events import VetoScored
from domain.veto import Flip, ModelRecord


def open_segments(file: Path) -> Iterator[JournalFile]:
    """Every segment of the session that `file` belongs to, one open at a time."""
    codec = Codec()
    for path in segments_of(file):
        with JournalFile(path, codec) as journal:
            yield journal


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """What is wrong with a journal is told with the file it is wrong in."""
    try:
        yield
    except JournalBroken as error:
        raise JournalBroken(f"{file}: {error}", seq=error.seq) from error
    except JournalUnreadable as error:
        if str(file) in str(error):
            raise
        raise JournalUnreadable(f"{file}: {error}") from error


def describe_config(path: Path | None, overlays: tuple[Path, ...]) -> list[tuple[str, str, str]]:
    """(key, value, source) of the configuration that `live` would use."""
    redact_tracebacks()
    found = find_config(path, os.environ, Path.cwd())
    return describe(load_config(found, overlays, os.environ))


def replay_command(file: Path, *, as_json: bool, until: int | None, models_dir: Path | None) -> int:
    """Replay every segment of a session; 0 identical, 1 diverged. `models_dir`: score with these bundles instead.

    Raises JournalUnreadable (exit 2) for a file that is not the record any more.
    """
    started_s = time.perf_counter()
    codec = RecallingCodec(Codec())
    paths = segments_of(file)
    replayed: list[SegmentReplay] = []
    for path in paths:
        with JournalFile(path, codec) as journal, naming(path):
            try:
                journal.verify()
            except JournalBroken as error:
                raise JournalUnreadable(str(error)) from error
            opened = opening_of(journal)
            models = find_models(opened.models, path.parent, models_dir)
            result = replay(
                journal.envelopes(),
                parts=machine_parts(models, find_models(opened.shadows, path.parent)),
                codec=codec,
                is_finished=journal.head().status == "closed",
                until=until if path == paths[-1] else None,
                skips=skips_of(journal),
            )
        digests = {root: bundle.digest for root, bundle in models.items()}
        replayed.append(SegmentReplay(name=path.name, result=result, models=digests))
        if result.divergence is not None:
            break
    running = RunningProgram(version=VERSION, code_digest=code_digest(), libraries=library_versions())
    report = replay_report(replayed, running, elapsed_s=time.perf_counter() - started_s)
    click.echo(json.dumps(report) if as_json else "\n".join(replay_words(report)))
    return 0 if report["identical"] else 1


def nearest_flip(file: Path, record: ModelRecord, scored: VetoScored) -> Flip | str | None:
    """What would have turned the verdict round; a text says why it cannot be told, None that no single input could.

    Costs milliseconds a feature, which is why it is computed when asked for and not recorded.
    """
    model = find_models([record], file.parent).get(record.root)
    if model is None or model.digest != scored.digest:
        return f"not known without the model {scored.digest[:12]}"
    return model.nearest_flip(scored.values)
