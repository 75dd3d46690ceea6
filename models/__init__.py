"""The Random Forest veto: bundles and their loader (`bundle`, `manifest`), the forest walk (`forest`), its training.

Importing this package does not import scikit-learn or joblib: scoring needs neither.
"""

from __future__ import annotations

from models.bundle import BUNDLES, ModelBundle, load_model_bundle, strategy_kwargs_from_bundle, write_bundle
from models.forest import FlatForest, ForestRefused
from models.manifest import FORMAT_VERSION, BundleDescription, BundleRefused, Manifest

__all__ = [
    "BUNDLES",
    "FORMAT_VERSION",
    "BundleDescription",
    "BundleRefused",
    "FlatForest",
    "ForestRefused",
    "Manifest",
    "ModelBundle",
    "load_model_bundle",
    "strategy_kwargs_from_bundle",
    "write_bundle",
]
