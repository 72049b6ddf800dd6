"""The doors for HTTP, as routes of Starlette's that an application mounts where it likes.

In: requests. Out: answers of whoever is behind a route. Never: a decision, a store, a socket of our own.
Needs `durableflow[http]`.
"""
