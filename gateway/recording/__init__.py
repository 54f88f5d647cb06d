"""What terminals printed: the spool each one is read into, the recording it becomes, and the asciicast export.

`recorder.py` is the hot path, `spool.py` the mapped file under it, `block_log.py` the file on disk, `reader.py` brings
both together again, `asciicast.py` and `playback.py` show it, `recordings.py` finds and ends them all. Input is never
recorded. Keyframes and the terminal model do not live here yet.
"""
