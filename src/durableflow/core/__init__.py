"""Replay: workflow code, its history and what came in, turned into decisions.

In: a program, the rows of its history, observations, the time. Out: a `Turn`, whose
fields say in which order the caller must make things so. Never enters: a clock,
dice, logging, storage, an async library.
"""
