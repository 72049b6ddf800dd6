"""A Kubernetes control plane of one's own for tests, and nodes that run pods as processes of this machine.

Comes in: the programs of a real control plane. Goes out: an API server with RBAC, its scheduler and its controllers,
nodes with GPUs that live and die as a test says. Never enters: a cluster that was there before.
"""
