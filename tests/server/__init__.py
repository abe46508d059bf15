"""The example server as a process, for real clients.

They need the extra `peer`, and run only when named: `scripts/test-db-backends server`.
"""
