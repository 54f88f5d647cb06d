"""What a connection reaches in its workspace besides programs, and what reaches back through it. Part of the core.

forwards.py dials and listens inside, by policy (access.py) · addresses.py: what names mean · acceptor.py takes what
comes to a listener · agents.py: whose ssh-agent answers · displays.py: X11 · local_clients.py finds a client that is
itself in a workspace · record.py writes each of them down.
"""
