"""What packs a workspace into one stream, brings it back, and looks for unsaved work. Run inside the workspace, as
programs of its keeper; standard library only. `tarstream` is the format; the gateway only moves the bytes."""
