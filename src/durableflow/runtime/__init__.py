"""The loops: group commit, attempts of activities, alarms, leases, the inbox.

In: observations. Out: commits, then their effects. A loop moves things and decides
nothing: decisions come from the core, retry arithmetic from the model.
Never enters: SQL, HTTP.
"""
