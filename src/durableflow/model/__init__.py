"""Nouns: events, failures, retry arithmetic, the life cycle, payload conversion.

In: plain values. Out: plain values. Never enters: a clock, dice, disk, network, async.
"""
