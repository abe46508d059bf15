"""The routes of the API, a module for each entity: plain functions over a Queryable.

Paths, bodies and answers are those of Prefect's server, server/api.
"""
