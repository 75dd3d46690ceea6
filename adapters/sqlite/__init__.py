"""The journal on disk: one SQLite file per session segment (`journal`), its payloads (`codec`, `upcasters`)."""
