"""A Prefect-compatible API server over prefect_db, and nothing else for storage.

An unmodified Prefect 3.8 client runs flows against it: `python -m examples.server`, or
`scripts/serve`. A request goes through `app.endpoint`, which reads it and makes one hop to a
thread, where a plain function of `api/` answers it from the database. Events that come by websocket
go through the queue of `ingest`. What a run may do next is decided in `orchestration`.
"""
