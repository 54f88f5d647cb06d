"""Measures the gateway beside OpenSSH's sshd, in one run: `./dev bench`, explained in docs/performance.md."""
