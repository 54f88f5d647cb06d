"""The SSH server: everything that knows asyncssh, and nothing that knows workspaces, keepers or the database.

server.py listens · connection.py is one transport, with asyncssh's gaps filled · auth.py decides who · limits.py
counts · channel.py is one session channel · forwarding.py is direct-tcpip · host_keys.py makes and loads host keys.
"""
