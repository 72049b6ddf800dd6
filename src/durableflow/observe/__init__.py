"""One stream of typed facts about an engine; logging (and later metrics, traces, audit) listens to it.

In: facts from the runtime. Out: what listeners make of them. Payload bytes are never a
field of a fact. Never enters: user data, storage.
"""
