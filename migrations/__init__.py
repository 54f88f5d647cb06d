"""Migrations, applied in order by gateway/store/migrate.py; `models/` is the name aerich gives the folder.

`./dev makemigration NAME` compares the tables with the newest file and writes the next one. Then, by hand: write the
body as separate `await db.execute_query(...)` calls that end in `return "SELECT 1"` (a returned script would not be
undone when its middle fails), and add the CHECK constraints, which the generator leaves out. A file that rebuilds a table
sets `RUN_IN_TRANSACTION = False`: it then runs with foreign keys off, in a transaction all the same, because
dropping a parent table would otherwise delete its children. A merged file is never edited.
"""
