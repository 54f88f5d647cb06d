"""Workspaces on disk: made, cloned, put away. git never runs on the host's side of the walls."""
