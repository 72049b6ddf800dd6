"""Where histories live. `base` is the contract; each other module is one way to keep it.

In: commits, messages, questions. Out: rows. Never enters: user code, a clock (the time is
a parameter, from one authority).
"""
