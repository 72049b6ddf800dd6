"""Activities that are Jobs on Kubernetes.

In: an activity that is called, and what an API server says. Out: a Job, and one end of the attempt. Never: a coroutine
that waits for a Job, a counter of Kubernetes' as proof of anything, a secret in a Job or a history.

Two halves. The pure one: `spec`, `identity`, `manifest` (activity to documents), `documents`, `seen`, `outcome` (what
was seen to what became of it), `envelope`. The talking one speaks to servers and is loaded when it is asked for.
"""
