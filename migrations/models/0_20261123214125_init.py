"""The first schema: five tables of sessions and workspaces, and the keys that may log in.

The CHECK constraints are written by hand; the generator emits none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True


async def upgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query(
        """
        CREATE TABLE access_keys (
            id VARCHAR(36) NOT NULL PRIMARY KEY,
            name VARCHAR(100) NOT NULL,
            fingerprint VARCHAR(100) NOT NULL,
            public_key TEXT NOT NULL,
            workspaces TEXT,
            options TEXT NOT NULL DEFAULT '{}',
            expires_at TIMESTAMP,
            last_used_at TIMESTAMP,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            CONSTRAINT access_keys_name_given CHECK (length(name) BETWEEN 1 AND 100),
            CONSTRAINT access_keys_key_given CHECK (fingerprint <> '' AND public_key <> ''),
            CONSTRAINT access_keys_workspaces_json CHECK (workspaces IS NULL OR json_valid(workspaces)),
            CONSTRAINT access_keys_options_json CHECK (json_valid(options))
        )
        """
    )
    await db.execute_query("CREATE UNIQUE INDEX access_keys_name_key ON access_keys (name)")
    await db.execute_query("CREATE UNIQUE INDEX access_keys_fingerprint_key ON access_keys (fingerprint)")
    await db.execute_query(
        """
        CREATE TABLE auth_logs (
            id VARCHAR(36) NOT NULL PRIMARY KEY,
            action VARCHAR(40) NOT NULL,
            success INT NOT NULL,
            ip_address VARCHAR(64),
            user_agent VARCHAR(255),
            details TEXT,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            CONSTRAINT auth_logs_action_given CHECK (action <> ''),
            CONSTRAINT auth_logs_success_boolean CHECK (success IN (0, 1)),
            CONSTRAINT auth_logs_user_agent_short CHECK (length(user_agent) <= 255),
            CONSTRAINT auth_logs_details_json CHECK (details IS NULL OR json_valid(details))
        )
        """
    )
    await db.execute_query("CREATE INDEX auth_logs_created_at_idx ON auth_logs (created_at)")
    await db.execute_query("CREATE INDEX auth_logs_action_created_at_idx ON auth_logs (action, created_at)")
    await db.execute_query("CREATE INDEX auth_logs_ip_address_created_at_idx ON auth_logs (ip_address, created_at)")
    await db.execute_query(
        """
        CREATE TABLE settings (
            id VARCHAR(9) NOT NULL PRIMARY KEY DEFAULT 'singleton',
            github_token TEXT,
            github_token_iv TEXT,
            github_refresh_token TEXT,
            github_refresh_token_iv TEXT,
            github_token_expires_at TIMESTAMP,
            theme VARCHAR(50),
            preferences TEXT,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            CONSTRAINT settings_one_row CHECK (id = 'singleton'),
            CONSTRAINT settings_token_with_iv CHECK ((github_token IS NULL) = (github_token_iv IS NULL)),
            CONSTRAINT settings_refresh_token_with_iv
                CHECK ((github_refresh_token IS NULL) = (github_refresh_token_iv IS NULL)),
            CONSTRAINT settings_preferences_json CHECK (preferences IS NULL OR json_valid(preferences))
        )
        """
    )
    await db.execute_query(
        """
        CREATE TABLE system_metrics (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            metric VARCHAR(50) NOT NULL,
            value REAL NOT NULL,
            unit VARCHAR(20),
            metadata TEXT,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            CONSTRAINT system_metrics_metric_given CHECK (metric <> ''),
            CONSTRAINT system_metrics_metadata_json CHECK (metadata IS NULL OR json_valid(metadata))
        )
        """
    )
    await db.execute_query("CREATE INDEX system_metrics_metric_created_idx ON system_metrics (metric, created_at)")
    await db.execute_query(
        """
        CREATE TABLE workspaces (
            id VARCHAR(36) NOT NULL PRIMARY KEY,
            name VARCHAR(50) NOT NULL,
            slug VARCHAR(50) NOT NULL,
            github_repo VARCHAR(140) COLLATE NOCASE,
            github_url TEXT,
            local_path TEXT NOT NULL,
            branch VARCHAR(255) NOT NULL DEFAULT 'main',
            description VARCHAR(200),
            is_active INT NOT NULL DEFAULT 1,
            is_recorded INT NOT NULL DEFAULT 1,
            last_sync_at TIMESTAMP,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
            CONSTRAINT workspaces_slug_is_folded_name CHECK (slug = lower(name)),
            CONSTRAINT workspaces_slug_is_login_name
                CHECK (slug GLOB '[a-z0-9]*' AND slug NOT GLOB '*[^a-z0-9_-]*' AND length(slug) <= 50),
            CONSTRAINT workspaces_repo_with_url CHECK (github_repo IS NULL OR github_url IS NOT NULL),
            CONSTRAINT workspaces_repo_given CHECK (github_repo LIKE '_%/_%'),
            CONSTRAINT workspaces_path_given CHECK (local_path <> ''),
            CONSTRAINT workspaces_branch_given CHECK (branch <> '' AND branch NOT LIKE '-%'),
            CONSTRAINT workspaces_description_short CHECK (length(description) <= 200),
            CONSTRAINT workspaces_active_boolean CHECK (is_active IN (0, 1)),
            CONSTRAINT workspaces_recorded_boolean CHECK (is_recorded IN (0, 1))
        )
        """
    )
    await db.execute_query("CREATE UNIQUE INDEX workspaces_name_key ON workspaces (name)")
    await db.execute_query("CREATE UNIQUE INDEX workspaces_slug_key ON workspaces (slug)")
    await db.execute_query("CREATE UNIQUE INDEX workspaces_github_repo_key ON workspaces (github_repo)")
    await db.execute_query(
        """
        CREATE TABLE sessions (
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
    )
    await db.execute_query("CREATE INDEX sessions_workspace_id_status_idx ON sessions (workspace_id, status)")
    await db.execute_query("CREATE INDEX sessions_last_activity_idx ON sessions (last_activity_at)")
    await db.execute_query("CREATE INDEX sessions_status_ended_at_idx ON sessions (status, ended_at)")
    await db.execute_query(
        """
        CREATE TABLE aerich (
            id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
            version VARCHAR(255) NOT NULL,
            app VARCHAR(100) NOT NULL,
            content JSON NOT NULL
        )
        """
    )
    return "SELECT 1"


async def downgrade(db: BaseDBAsyncClient) -> str:
    return ""  # before the first schema there is no database


MODELS_STATE = (
    "eJztXW1T3DgS/iuq+USqOCoML0mWq6sayCRhIcwWkNutvVx5NLaY0WFLs5YMTGX579eS7f"
    "H7YDuMMzj+EoKkR5KflqXuVrv51nO4RWyxMzBNIsQZWfR+Qd96DDsE/pOt3EY9PJ9HVapA"
    "4omtW2PdzLglC12OJ0K62JRQdYNtQaDIIsJ06VxSzhTg5NPw5Ez8gtRwCDMLARRhlyDGJS"
    "LOXC6O0Pieu7dijqHrMaICYfTr1egC2VRIxF3EPNtGWxj+4TdIzojzahuNuR4B2geN+eR/"
    "xJQ7alIWN2FWlE1/0Pgeo395xJB8SqC1C7P4z3+hmDKLPBAR/jq/NW4osa2EMKilOtDlhl"
    "zMddnJDLsfdEv1bBPD5LbnsKj1fCFnnC2bw6Or0ilhxMWSWDHRqAcJBBkW+XOFAul6ZDlJ"
    "KyqwyA32bCXg3j9vPGaqp0ZT6PgeL3aoJXYYuTeo9a9gcrHmhnExujauhteG0cusCzWVlK"
    "iCIhNYhTVFmRSaGgc/GDZhUzmDX/cOH/1xIor8VmrAfw8uTz4NLrf2Dl+pATksTH/RXgQ1"
    "fV31qLvAEvudaIFEEtA/K8ggbN+UFELi1k717uvXJbiGVoVk6zrFdsTuDYxP3DlMQ1YhOQ"
    "XruC7D9dyb2NRUW3WW6mvyIPOpTqKeh+mwIKI6Oiwa4HoFtdfDP65Vz44Qf9lxRrc+D/7Q"
    "ZDuLoOZ8dPExbB6TwMn56DhFfHSaVCE+iapFfLCAf1begyO5CukxSHNLvfftcV2nZdOUk4"
    "c5dYkwcM52/h5ok9Qh+cwnkSnyrQC6E/6nXYv/9PPw6nrw+beEON4Proeqpp8QRVi6ldZp"
    "lp2g30+vPyH1K/pzdDHUbHIhp64eMWp3/WdPzQl7khuM3xvYinMSFodFCSnbWEjDE8SqIe"
    "c0tpP0JkvadInivYack8hnkPKmaRE9eEBrxOxFsAJfiNiDlyUjdWWC3tzGTCBVMMHm7T12"
    "LSNTw/u8qG22yuk76RLM8FTLTJGrphm6HTw5O+fTXp5HIqjaXumPgEaGzacVvRFji0hM7Y"
    "S5H1jwaKBtXKGdBKbNYetClCETxkYcxA+PQO7hf0QgxxNS+xEYgUYYuWTiUVsiPbtiV0RT"
    "gz/th/jWi8QUf4NVMzigYYUJrR4FyFBAS9KNCGNQ60FLJnjle7oLEIf+RW8ysbGwfkzVps"
    "6oPrr24HSu3g01TN0JRD2Un0Tn89lYn0+0GrNSGDLP0ZI4hSliZpKMRCL0JlvLvV+55zJs"
    "D5azrSqH/TI+iv1iF8V+xkMhPO1NzhJ/zLlNMMt/A2KoFOETgG0O48+hQB6PRucJJeL4NG"
    "2Vffl8PLzc2tW0QyMqdfHpxXWK7OSuV3q7SaDa4JVILurD/RKL+nC/cFGrqiTPYOu4Big7"
    "1TycSVT7eO4fHJQgGloVMq3rklQHelQVh08M0gaSm/b3dPZh8Xrv7MM12IdXvi7ey7EPw6"
    "rtVfahCHX57SrmYWB5CSLFERpL4jqUqZU43kZjAstLLeOxvk1WvxogecHZGMw0h6DQ3DqC"
    "ekQeqAysNxdsNEGnoIJta1MO3c9IRg9rfgZfWdT5EdiT0JYx4qv8HrOBPqQU3DtypNAzYt"
    "vKalWigOYw9h11OXPg3MqxZmsYoctbEMM3dEDnlp54yjILpWzE4YaPrWYbanelfmAqFyVs"
    "wuXISWClMYNnVG0CyZYeNXjEENeZoC/VBNVvljHPE8QpK9BlEpiUOIKb8pelzcB04cc/+r"
    "v7b/bf7h3uv4Umep7Lkjcr5JA1eQQ3b4k0qq3uBKgNOuJ6lnJq6VZiOAQ0eOU6wWLWzF6x"
    "FksnOiLqeKgidIOM+1pDRc57gVJ3tZxx9VCaUpE0KwJp0twrnQLGNyzqglLD3UrhNLngNu"
    "wqjUcaRJpmFf5TsI756sxnVOIM/SUiAFL4zv7fdPu/8/r87FJfGqMVZR7HddE+mxzto3xD"
    "hvINVTA6E5jO6MwanY1+QLBpXCZU8YMyqvhBsSp+kFHFQZUusOWfNoJCbIMm0NLQrWEBnQ"
    "XT/fH2j8kdB+fxXqx1xyBtWNZNa9zqQxeTznElr0oC1AbWG/hE5pYsjJqfJOVAO9JLkW7a"
    "FKxxg86r0J0AtY/o5w9D8anLcRkWanYxRKfXZfU6l99XYTNs3lGZpVLbEP5NdJU9IAVr3y"
    "7QL7Pb9os3235mr41iA+qqzckeNpjz3pBZl8uJ/ni1ebKQRBg0h/hjOi3cNuKoWltHLUvl"
    "9Xo3jnf9/t7em/7rvcO3B/tv3hy8fb3cQbJVq7aS49OPajdJyCC7vfgcci9Hn3ua+gDWcV"
    "+Pe5eY3LXUvDLcF5uLCdAGbzEbazCmo6bKnqhpXBu4X0e4QyYYMof6LO8fuEtAWzkji8wR"
    "myI6iGj8Pd7Xy2L9MVxaYWk0RRffL0POMisOSIBHJ/5HCyeDq5PB+6EfqPYjYk2lhGf010"
    "cm2DSo214dbRprVT41EkcCdkBmITAaVJil5LeE6eBOKgVUw6LxUxbBfGPRneO5S26IS1gq"
    "b9GTqZDWN15bUx8JoBBWaaBbrn3Xeldi03pXuGe9eyrYcErlzJsYWuxVzuk0rg3HRdNHdZ"
    "xDg97VpT+AdhKoLQHYy1wiZrXfggy+k8XzyKLeW5HXRSeR79yf6qf3WdFNFxOyyTEhKr9l"
    "pfiFJaANb9u6AxhiGnSVPS4FawPT3ZerGyOKFscwenOrptSTyE7qmyL1nENMz35TvldeCE"
    "mczwS4N3t5fqR4/fZKX5JuaTi6adX0VoDCyvzPTTHFEKwBMiWuzoUNDQjj3nSGbrirPELK"
    "AzTh1gLpQ0cgyVekslrDQBW/GHaWXJbP5JTkNvi5TOX0jB/RrrpvKvvdZrDPfZ8Ha/3RAY"
    "1cNBX7tKJlUFZxjRCbnLdpY1TXO2x7eZccNscFC3yJSPF7oyAvkOEVjL4ffTk+H6LfLocn"
    "p1eno4vkkagrVVGUn+lyODhPJw5itFrKoKB9G6yBdcfBhMdUFaMrjmkDx53FtTGieKG694"
    "bnCoquz3MU78TderHWnczCX17jBk0VCdub+mqwzaeU6SQ5RzozK3BM1cffaIaFvmP9cnmO"
    "trD+gW3OiIKpH9yTgloEfaTykzd5Vax4r2m8r+wrGy896nOu1XqTO3PsEgvdQwUgkIkFQV"
    "sno/NzWHDoYnQyuBq+2kaCqotjvytkcSKQ4Dso7I5aYwA6RPfiz19fQn9lDp3CuwuEtvoK"
    "+adIY9P99Zy16d/qba9Cbdi+o/ZJamMbXhWGU7Bn0RE3iOfdUgl/d1dk/N3NpvwNOPPcnM"
    "j/J+94A1SnjNdI4sFNbBtzLGdVeE+iWuEmaZr4iYuZmUN68bYSIRr8VNnBtKHYtjVlAo5m"
    "VoHqFKwNG0vak1LOlbLKl5LZw6n/FxjucjS9lYnbE7gGU7eHR+jLTd0uDP8TCZJ3xfAE5X"
    "FkR3p50nXaKrFgZt2UVzFsF/K0ObfF2SCBzlFZfJq0y1HZhYa0WerPEBoSc7fEEsenDtwA"
    "+eHskti4QHfM5qh/kft75nuux3U68AfEpeasl+O9D2q2V/4puKjNU277Yhqe2fv8swR/fG"
    "dqiGKH8h1xRUWjLgZphceiAfNZvVQVGA6at5Dd9SQ84kzmpi1W0XIFimUESesX1JTob2RT"
    "0bIQGkXGau9b2tGW0g5UB8d5H2s3eRv9+H/vs7p4"
)
