"""Databento: the live session, recorded files, and a local gateway. Only this package imports the vendor's client."""
