"""What a terminal's screen looks like at any place of its recording, and the bytes that paint it for a client.

`ghostty.py` speaks to the terminal library, `model.py` is what the rest sees of it, `rows.py` and `painter.py` turn a
screen into bytes.
"""
