"""Sessions may be detached: since when, with which job, and when that ended; and they may end for want of use.

SQLite cannot change a CHECK, and the closed set of end reasons is one, so the table is made anew and filled from the old
one, in the runner's transaction. Nothing refers to sessions, so no row of another table can go with it.

Additive: a gateway of the previous version works on beside it. It names its columns in every statement, the new ones may
be null, and none of its rows is refused. Its statements are prepared again by SQLite itself; while the rows are copied,
which took 1.4 s for 100,000 of them, its writes wait, as they may for 5 s (models/orm.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True
IS_ADDITIVE = True

COLUMNS = (
    "id, shell_pid, socket_id, shell, status, working_directory, environment, last_activity_at, created_at, ended_at, "
    "exit_code, name, kind, command, principal, key_fingerprint, client_ip, columns, rows, exit_signal, end_reason, "
    "bytes_in, bytes_out, recording, workspace_id"
)
BEFORE = """
    CREATE TABLE {name} (
        id VARCHAR(36) NOT NULL PRIMARY KEY,
        shell_pid INT,
        socket_id VARCHAR(36),
        shell VARCHAR(255) NOT NULL DEFAULT 'bash',
        status VARCHAR(10) NOT NULL DEFAULT 'active',
        working_directory TEXT,
        environment TEXT,
        last_activity_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        ended_at TIMESTAMP,
        exit_code INT,
        name VARCHAR(50),
        kind VARCHAR(10) NOT NULL DEFAULT 'shell',
        command TEXT,
        principal VARCHAR(100),
        key_fingerprint VARCHAR(100),
        client_ip VARCHAR(64),
        columns INT,
        rows INT,
        exit_signal VARCHAR(20),
        end_reason VARCHAR(10),
        bytes_in BIGINT NOT NULL DEFAULT 0,
        bytes_out BIGINT NOT NULL DEFAULT 0,
        recording TEXT,
        workspace_id VARCHAR(36) REFERENCES workspaces (id) ON DELETE CASCADE,
        CONSTRAINT sessions_status_known CHECK (status IN ('active', 'paused', 'terminated')),
        CONSTRAINT sessions_kind_known CHECK (kind IN ('shell', 'exec', 'subsystem')),
        CONSTRAINT sessions_end_reason_known
            CHECK (end_reason IN ('exit', 'hangup', 'killed', 'lost', 'shutdown', 'failed')),
        CONSTRAINT sessions_terminated_is_ended CHECK ((status = 'terminated') = (ended_at IS NOT NULL)),
        CONSTRAINT sessions_ended_with_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
        CONSTRAINT sessions_exit_only_when_ended
            CHECK (status = 'terminated' OR (exit_code IS NULL AND exit_signal IS NULL)),
        CONSTRAINT sessions_exit_code_or_signal CHECK (exit_code IS NULL OR exit_signal IS NULL),
        CONSTRAINT sessions_connected_only_when_active CHECK (status = 'active' OR socket_id IS NULL),
        CONSTRAINT sessions_pid_only_while_running CHECK (status <> 'terminated' OR shell_pid IS NULL),
        CONSTRAINT sessions_shell_given CHECK (shell <> ''),
        CONSTRAINT sessions_bytes_positive CHECK (bytes_in >= 0 AND bytes_out >= 0),
        CONSTRAINT sessions_environment_json CHECK (environment IS NULL OR json_valid(environment))
    )
"""
AFTER = """
    CREATE TABLE {name} (
        id VARCHAR(36) NOT NULL PRIMARY KEY,
        shell_pid INT,
        socket_id VARCHAR(36),
        shell VARCHAR(255) NOT NULL DEFAULT 'bash',
        status VARCHAR(10) NOT NULL DEFAULT 'active',
        working_directory TEXT,
        environment TEXT,
        last_activity_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        ended_at TIMESTAMP,
        exit_code INT,
        name VARCHAR(50),
        kind VARCHAR(10) NOT NULL DEFAULT 'shell',
        command TEXT,
        principal VARCHAR(100),
        key_fingerprint VARCHAR(100),
        client_ip VARCHAR(64),
        columns INT,
        rows INT,
        exit_signal VARCHAR(20),
        end_reason VARCHAR(10),
        bytes_in BIGINT NOT NULL DEFAULT 0,
        bytes_out BIGINT NOT NULL DEFAULT 0,
        recording TEXT,
        workspace_id VARCHAR(36) REFERENCES workspaces (id) ON DELETE CASCADE,
        detached_at TIMESTAMP,
        job VARCHAR(100),
        job_ended_at TIMESTAMP,
        CONSTRAINT sessions_status_known CHECK (status IN ('active', 'paused', 'terminated')),
        CONSTRAINT sessions_kind_known CHECK (kind IN ('shell', 'exec', 'subsystem')),
        CONSTRAINT sessions_end_reason_known
            CHECK (end_reason IN ('exit', 'hangup', 'killed', 'lost', 'shutdown', 'failed', 'idle')),
        CONSTRAINT sessions_terminated_is_ended CHECK ((status = 'terminated') = (ended_at IS NOT NULL)),
        CONSTRAINT sessions_ended_with_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
        CONSTRAINT sessions_exit_only_when_ended
            CHECK (status = 'terminated' OR (exit_code IS NULL AND exit_signal IS NULL)),
        CONSTRAINT sessions_exit_code_or_signal CHECK (exit_code IS NULL OR exit_signal IS NULL),
        CONSTRAINT sessions_connected_only_when_active CHECK (status = 'active' OR socket_id IS NULL),
        CONSTRAINT sessions_detached_unless_active CHECK (status <> 'active' OR detached_at IS NULL),
        CONSTRAINT sessions_job_given CHECK (job <> ''),
        CONSTRAINT sessions_job_ended_is_known CHECK (job_ended_at IS NULL OR job IS NOT NULL),
        CONSTRAINT sessions_pid_only_while_running CHECK (status <> 'terminated' OR shell_pid IS NULL),
        CONSTRAINT sessions_shell_given CHECK (shell <> ''),
        CONSTRAINT sessions_bytes_positive CHECK (bytes_in >= 0 AND bytes_out >= 0),
        CONSTRAINT sessions_environment_json CHECK (environment IS NULL OR json_valid(environment))
    )
"""


async def upgrade(db: BaseDBAsyncClient) -> str:
    await _make_anew(db, AFTER)
    await db.execute_query(
        "CREATE UNIQUE INDEX sessions_live_name_key ON sessions (workspace_id, name) "
        "WHERE name IS NOT NULL AND status <> 'terminated'"
    )
    return "SELECT 1"


async def downgrade(db: BaseDBAsyncClient) -> str:
    # The nearest of the reasons that the previous version knows: in both cases it was the gateway that ended it.
    await db.execute_query("UPDATE sessions SET end_reason = 'killed' WHERE end_reason = 'idle'")
    await _make_anew(db, BEFORE)
    return "SELECT 1"


async def _make_anew(db: BaseDBAsyncClient, definition: str) -> None:
    await db.execute_query(definition.format(name="sessions_made_anew"))
    await db.execute_query(f"INSERT INTO sessions_made_anew ({COLUMNS}) SELECT {COLUMNS} FROM sessions")
    await db.execute_query("DROP TABLE sessions")  # its indexes go with it
    await db.execute_query("ALTER TABLE sessions_made_anew RENAME TO sessions")
    await db.execute_query("CREATE INDEX sessions_workspace_id_status_idx ON sessions (workspace_id, status)")
    await db.execute_query("CREATE INDEX sessions_last_activity_idx ON sessions (last_activity_at)")
    await db.execute_query("CREATE INDEX sessions_status_ended_at_idx ON sessions (status, ended_at)")


MODELS_STATE = (
    "eJztXW1z27gR/isYfXJm1Iyj2M6L287IjpL44thX2+ndXNOhIBKWcCYBHQHa0aT5712A72"
    "8yqVgMzfCTbAALgM8ul7uL5fLrwOEWscXTsWkSIT6Q1eA1+jpg2CHwR75ziAZ4uYy7VIPE"
    "M1uPxnqYcUNWuh3PhHSxKaHrGtuCQJNFhOnSpaScKYLj95PjD+I1UsshzCwEpAi7BDEuEX"
    "GWcnWIpnfcvRFLDFNP0Q5GNhVyiLiLmGfb6Br+wLb9RFNPuZ4Zxqk5frk8P3uq9mFxEzZC"
    "2by5JT1G//KIIfmcyAVxYeH//BeaKbPIFyLCf5c3xjUltpWCnFpqAt1uyNVStx0vsPtWj1"
    "SXMzNMbnsOi0cvV3LBWTQcrla1zgkjLpbESjBAXUHArrDJ3ys0SNcj0SatuMEi19izFRsH"
    "f7/2mKkuGM1h4ju8ekot8ZSRO4Na/ww2lxhuGGfnV8bl5MowBjnuq61kuBM0mQAoSA5lUm"
    "hoHPzFsAmbywX8+/zgm79ODJE/Si347/HF8fvxxc7zgydqQQ7i54vmWdAz0l3f9BRYYn8S"
    "zZCYA/q3Bg/C8U1xIQRu61A/292tgDWMKgVb9ym0Y3SvYX3iLmEbsg7IGbIe6ypYL72ZTU"
    "2lkPNQX5EvshjqNNXDIB02xFDHj4QGsF4D7dXk9ys1syPEX3YS0Z2P49812M4q6Dk9P3sX"
    "Dk9w4Pj0/CgDfPwAqQN8mmoj4AMB/llxD57GdUBPkDQn6oOv37b1tGwacvJlSV0iDFygzt"
    "8AbJI6pBj5NGUGfCsgfRr+0S3hP/k4ubwaf/w1xY4346uJ6hmlWBG27mRtmmgS9NvJ1Xuk"
    "/kV/nJ9NNJpcyLmrV4zHXf0xUHvCnuQG43cGtpKYhM1hU4rLNhbS8ASxNuBzlrbndJs5bb"
    "pE4b4Bn9OUD8DltlkRA7hA65zZq0ACHwnbg5slx3Xlgl7fJFwg1TDD5s0ddi0j18NHvGxs"
    "vssZOdkWzPBc80yBq7YZBhc8uTjl80FR3CHoGq6NOsAgw+bzmjGHqUUkpjZ47lT4jjsaa9"
    "dWaFfetDloLEQZMmFJxIHrsHNyB38RgRxPSB0xYAQGYeSSmUdtifSmyoMOW1zzM/vMru44"
    "cjhMFMQZhojfEhfdLbBEQmJmCTV3tImhXtTBsNRsheSCoGvuuXKBHDqHuxK2BaurGQFyZG"
    "KGBNbDHFhMhUSMCPmdyHL9x2dvtDs68IMjmUHKeTPpEtvRIH0lesZqQZOvg1imkupGDQNr"
    "Am4HoW25gDKUpmgLRkxjUOuLFqNAPw30FCA7+h+tERNrYc0lNWaTVX3qjRenS3Ujq2U23U"
    "A8Q/VN9AGq1gaoYmnMc2HCPEdz4oSpW94kOY7E1G127Qe/gC5i2B5Hu63Lh70qAZW98njK"
    "Xi6cIjwd4M4Df8S5TTArvgMSVBnAZ0DWHsQfwto9Oj8/TVk8RydZF/LTx6PJxc4zDTsMol"
    "I3n5xdZcBOa73K6iZF1YUQSlqoD/YqCPXBXqlQq640zuCYuQZYZvXCsWmq7uE82t+vADSM"
    "KkVa96WhDgyvOtGpBEkXQG46ONU7s+Xy3juzW3BmL31bfFDgzIZdw3XOrAht+WEdXzZwHA"
    "WR4hBNJXEdypQkgos3JSBeSoyn/nk1/GsA5wVnU/AyHYJCd+sQ+hH5QmXgfLrgYgo6BxNs"
    "qD1RcCNJzg5rfgefWTz5oXJPQawZ8U1+j9kAH1IG7i051L6y0p/mAnZ2t6A2ibr0dBjdgA"
    "Qx9CefIdgUbBzWWxDbVt65Yp51+JnBdm+py5kDj7qE2/7p7ORfnyavlWcObu4tQQHjEL+G"
    "WXRyAbjaGEWO8SYebkRs+F4UGPTSE/e5faEIGUlyw6et53jqwK2GjMpVBYczWjlNWGvN4B"
    "rVmEBsKq8aXGJI1/u3j9W/1TehsSxixAkrMZRSNBl2BDkDj8tUgu3Cz99Gz/Ze7L18frD3"
    "EobofUYtL9bwIe9PCW7eEGnUk+4UURcM0O2IckZ0ayEcEjR4+DzDYtGMrtiKGxU/IjYJf8"
    "XUDSLu2x01MR8EFuNltOP6SUWVcorWpBRlsVc2BaxvWNQFo4u7tRKLCom7oFUaz7mIbdI6"
    "+GfIeuTrI58ziXPwV8iFyND3wYW2Bxf6kNLPzvXIGa3J8yRdn/fU5rwnFXgyVOCphtOZou"
    "mdzrzT2eirFG3DMmWK71cxxffLTfH9nCkOpnSJL3+/ExTSNugCRY7uBh7Qh2C7P97/Mbnj"
    "4CLcy63uBEkXxLppizvKGqujR1JEXUC9gZeFbsjK2PDlrALSHvRKoJs2BW/coMs6cKeIug"
    "f0w+e4+NAVhAxLLbsERW/X5e06l9/VQTMc3kOZh1L7EP4xdx0dkCHrnhYYVdG2o3JlO8rp"
    "2jjxYFOzOT1DizEfTJh1EW30x5vNs5UkwqAFwB/ReanaSFJtpDo28lR2t6s4Xo1Gz5+/GO"
    "0+P3i5v/fixf7L3UiD5LvWqZKjk3dKm6R4kFcvPobcK7Dn7oc+IOux3wx7l5jctdS+ctiX"
    "u4spoharmNY6jGHK1wbR2gxpH7Btc8D2Tz6rYzAFw7twRzXglwJaxqZnHlna/jZq822UTT"
    "Ktej9l6bp3Yz1MdlguMb0A+jzub7lLwLn7QFY5jyQDdJBd/ltyrseF+rdQtMLWeIsuvosy"
    "dHMSByDApRP/BbLj8eXx+M3Ez+v9EXn/UsI1+vKRS/wP+obrM/8To6pXzuNIgMHILOTyO5"
    "XALvkNYTrRnkoB3SA0fnk72G8i0366dMk1cQnTNe7CtPass7jFZbpaIU8AciCTgeO9dR31"
    "qoKKelWqoV7dl4k9p3LhzQzN7TpOTJauCw+Hpv2YJIYGvd0U/oC058DGHAAVBvbWYuO7IE"
    "ff8+JheLHZXVE0Rc+R79RPm1eBWzNN7zi22XFUdXtqJXdFBF2427ad3ZUwnOvouAxZF5Du"
    "awa0hhUdTvD2ltaGXE9T9lxvC9cLHmJ6922pFLESkjgfCWBvDoqiRsn+4drIkR5pOHpo3S"
    "qIQIWV+58sScgQsJ7Mias/jgDthHFvvtBfPlCpPIjxGbdWSD9rBJJ8TcXDh5u/ZvEEJ0Ku"
    "esW8NJLBb1Qy7wHrCaw7eq/6Cnug1b4vXrX9RKlGztzLI1ixGFQ1U2OKNtfHa42heottr+"
    "gAw+a4RMAjigy+14rkESK8BtE355+OTifo14vJ8cnlyflZ+gGoO1VTXAfvYjI+zRZoY7Re"
    "abZgfBds/22nBIZPpzouVpKmCxj3/lVrWPFILe2W12SLj8YLzOzUuXm5jZ3+NEt1+1pV1R"
    "a2N1dWLkY2n1Omq4Md6gLegDFVdTDQAgt9kPrp4lR9cEz9YFvVFgMy9cM9KahF0Dsq33uz"
    "J4fJemvlxncTi6u649Mosr7k2s43ubPErqq6Bh1AjkwsCNo5Pj89BVFEZ+fH48vJkyESVJ"
    "0b+/MiixOBBH+KwumoNQVCh+hZ/IvRZ9CfWVSgfIim4DQoEYFLD+rL6RcNpzGRXFDX6vSZ"
    "809RFKz/KtvWTHilI+pAG47vob0X2oRmrINwhuxBzMwW4fysUm32Z2uKsz/LV2cPMPPcgv"
    "eo7j0UDqh6e37jc+C6Ya4UWYdeDGz4HRObm9g2llgu6kh9mqoTca6mxX7mYmYWgF6u1GOK"
    "BstuOJg2lIq4pZL58c5qQJ0h64Jaz4bCqsXC1gXDck9Q6n+q6LbAzl77hZMUXYPfOAkNmM"
    "f7jRNh+K/7kaKH5z2QJyl70KuDHgcMijXK/a+Bp2dosXJRr5Ekdvrj3wNvuDxyu1X4Np6X"
    "ur6oWDFz09qkCdo+/bI9mSv5hKX+GKX8PuvWMUqfptZlrj9Amlri+Zr4fFDGmgwo3364ID"
    "YucYzyXyp6lPo99ybpt20eL46JS83FoOBsMegZrv16cTzmvkPFchge+GDrZ0lN+84aXuVn"
    "VbfEFTUjFgmSToTjGrB11U1VA+FgeAfR3U5lSs5k4fclVBJviWEZk2TtC2pK9D/9QfBHiP"
    "YacBUY60PL2ShyxjpQExwVlYloMlfm2/8BXNEixA=="
)
