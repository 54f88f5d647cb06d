"""The commands of `ssh lobby@host` and `homeport`: one table, served over the control socket and, later, over SSH."""
