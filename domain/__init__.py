"""The rules of the system, pure: no clock, no I/O, no randomness, no thread.

Start with `events` (the alphabet of the journal) and `envelope` (an event's place
in the total order); `ports` says what the actors need from outside.
"""
