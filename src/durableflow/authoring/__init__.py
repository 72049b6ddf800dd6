"""What users' hands touch: the decorators, the context, the registry.

In: the user's functions. Out: programs that the core can drive, activities that the
runtime can run. Never enters: a clock, storage, network.
"""
