"""Git inside a workspace: who gets the GitHub token and for what, and what git is told for it. Core: standard library
alone, tested without git, keepers or a database.

    decision.py      git's question, and whether it is answered: pure
    git_settings.py  the files and variables by which git finds us: pure
    desk.py          the socket of one workspace at which git asks
    broker.py        all of them, and what they answer
"""
