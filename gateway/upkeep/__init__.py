"""What looks after the gateway: jobs by the clock, backups, retention, measurements, readiness.

`upkeep.py` puts it together for the app; every other file is one of its parts and can be read alone.
The only folder that knows aiocron and psutil.
"""
