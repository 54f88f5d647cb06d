"""The SSH server: everything that knows asyncssh, and nothing that knows workspaces, keepers or the database.

server.py listens · connection.py is one transport, with asyncssh's gaps filled · auth.py decides who · limits.py
counts · requests.py answers in turn · channel.py is one session channel · forward_requests.py, forwards.py and
stream.py are a connection's forwards, from the wire to the bytes · inward.py opens channels to the client, for
agent.py and x11.py · window.py bounds what is received · host_keys.py makes and loads host keys.
"""
