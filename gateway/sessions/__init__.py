"""Sessions: a program, its terminal or pipes, and the clients that come and go. Core: no SSH library, no database.

`sessions.py` tells the life of each; the state of one is in `session.py` and its two kinds, `terminal_session.py` and
`pipe_session.py`; bytes flow in `pumps.py`. Which session a client gets: `attaching.py`. From one gateway to the next:
`handover.py`, and `elsewhere.py` while there are two.
"""
