"""What terminals printed: the spool each one is read into, the recording it becomes, and the asciicast export.

`recorder.py` is the hot path, `spool.py` the mapped file under it, `block_log.py` the file on disk, `reader.py` brings
both together again, `stream.py` reads on from a position, `asciicast.py` and `playback.py` show it, `recordings.py`
finds and ends them all. What a terminal's screen looks like is made from it in `screen/`. Input is never recorded.
"""
