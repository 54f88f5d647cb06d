"""The database, and the only importer of `models`: one function per question, named after it.

`gateway.store.store.Store` is what the rest of the program holds; `gateway.store.migrate` brings a file up to date.
This module itself imports nothing, because the command line must not wait for the ORM to talk to a running gateway.
"""
