"""The Random Forest veto: bundles, their loader, the forest walk and training. Empty until a bundle is trained."""
