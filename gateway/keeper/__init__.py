"""The keeper: the one process inside a workspace that owns its programs.

It is run by path (`python3 -I -S …/keeper`), by an interpreter that need not be the gateway's (3.9 or newer), so
everything here uses the standard library and nothing of ours outside this folder. The gateway's end imports
`protocol` and nothing else.
"""
