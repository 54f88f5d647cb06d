"""What a terminal's screen looks like at any place of its recording, and the bytes that paint it for a client.

`ghostty.py` speaks to the terminal library, `model.py` is what the rest sees of it, `rows.py` and `painter.py` turn a
screen into bytes. They run in a process of their own: `worker.py` with `followed.py` behind the walls of `confine.py`.
In the gateway `screens.py` asks it, `process.py` keeps it alive, and `plain.py` does without it. `protocol.py` is what
the two say to each other, `keyframe.py` what shortens the way from a recording's beginning.
"""
