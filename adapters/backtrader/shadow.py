"""Shadow models: what a second model of a root says of each decision bar, on record beside the first and never acting.

A shadow has a feature book of its own. Whatever goes wrong in it ends in its own record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from domain.events import RootHalted, ShadowScored, SignalEvaluated, VetoScored
from domain.ibs import StrategySettings
from domain.scorer import Judgement, Scorer
from domain.units import Nanos

Signal = VetoScored | SignalEvaluated | RootHalted


def with_shadows(
    signals: Iterable[Signal], shadow: Scorer, digests: Mapping[str, str], settings: StrategySettings
) -> Iterator[Signal | ShadowScored]:
    """The signals, and after each evaluation of a root that has a shadow (`digests`) what the shadow says."""
    for signal in signals:
        yield signal
        if isinstance(signal, SignalEvaluated) and signal.root in digests:
            judgement = shadow.judge(signal.root, signal.ts, side=settings.of(signal.root).side)
            yield _scored(judgement, signal.root, signal.ts, digests[signal.root])


def _scored(judgement: Judgement, root: str, ts: Nanos, digest: str) -> ShadowScored:
    vector, score, threshold, gate = judgement.vector, judgement.score, judgement.threshold, judgement.gate
    if vector is None or score is None or threshold is None:
        return ShadowScored(
            root=root, ts=ts, digest=digest, is_passed=False, reason=gate.reason, detail=gate.value or ""
        )
    if not all(map(math.isfinite, (score.probability, score.bias, *score.contributions))):
        detail = "the model's answer is no number"
        return ShadowScored(root=root, ts=ts, digest=digest, is_passed=False, reason="veto_failed", detail=detail)
    return ShadowScored(
        root=root,
        ts=ts,
        digest=digest,
        is_passed=gate.is_passed,
        reason=gate.reason,
        probability=score.probability,
        threshold=threshold,
        values=vector.complete(),
        carried=vector.carried,
        bias=score.bias,
        contributions=score.contributions,
    )
