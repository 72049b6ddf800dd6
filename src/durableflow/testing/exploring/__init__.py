"""Exploring: a workflow in all the stories that crashes, races and slow answers can make of one start.

Comes in: a workflow and its arguments, the activities that it calls (or what is called instead), a world for them to
act on, and what must hold. Goes out: how much was explored, or the smallest story that breaks what must hold, as a
timeline. Never enters: an engine, a store, a thread; the core is driven by hand, one observation at a time.

The words: a *story* is all that happens from the start of an instance until nothing more can happen. It is made of
*moves*: an attempt ends, time passes, an event comes, the worker crashes. What can come next is a list of moves, of
which the first is the usual one; a story is known by the moves at which it leaves the usual way.
"""
