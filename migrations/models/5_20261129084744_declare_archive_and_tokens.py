"""A workspace may be declared before it is cloned, and tells since when it is archived; whose GitHub token is kept; and
bearer tokens of the HTTP API.

Additive: a gateway of the previous version works on beside it. It names its columns, and the new ones have defaults.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True
IS_ADDITIVE = True


async def upgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query(
        """
        CREATE TABLE api_tokens (
            id VARCHAR(36) NOT NULL PRIMARY KEY,
            name VARCHAR(100) NOT NULL UNIQUE CONSTRAINT api_tokens_name_given CHECK (name <> ''),
            token_hash VARCHAR(64) NOT NULL UNIQUE CONSTRAINT api_tokens_hash_whole CHECK (length(token_hash) = 64),
            scope VARCHAR(10) NOT NULL CONSTRAINT api_tokens_scope_known CHECK (scope IN ('read', 'write')),
            created_by VARCHAR(100) NOT NULL,
            expires_at TIMESTAMP NOT NULL,
            last_used_at TIMESTAMP,
            created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
        )
        """
    )
    await db.execute_query(
        "ALTER TABLE settings ADD COLUMN github_profile TEXT "
        "CONSTRAINT settings_github_profile_json CHECK (github_profile IS NULL OR json_valid(github_profile))"
    )
    await db.execute_query(
        "ALTER TABLE workspaces ADD COLUMN is_cloned INT NOT NULL DEFAULT 1 "
        "CONSTRAINT workspaces_is_cloned_boolean CHECK (is_cloned IN (0, 1))"
    )
    await db.execute_query(
        "ALTER TABLE workspaces ADD COLUMN clone_branch VARCHAR(255) "
        "CONSTRAINT workspaces_clone_branch_sound CHECK (clone_branch <> '' AND clone_branch NOT LIKE '-%')"
    )
    await db.execute_query("ALTER TABLE workspaces ADD COLUMN archived_at TIMESTAMP")
    return "SELECT 1"


async def downgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query("ALTER TABLE workspaces DROP COLUMN archived_at")
    await db.execute_query("ALTER TABLE workspaces DROP COLUMN clone_branch")
    await db.execute_query("ALTER TABLE workspaces DROP COLUMN is_cloned")
    await db.execute_query("ALTER TABLE settings DROP COLUMN github_profile")
    await db.execute_query("DROP TABLE api_tokens")
    return "SELECT 1"


MODELS_STATE = (
    "eJztXW1T3DgS/iuq+ZRUzVHJBMgLd1c1kNkNGwJ7QG639rjyaGwxo8WWvLYMTOXy368lv7"
    "8NtsM4xvEnGEktyU/L7X6kdvvLyOIGMd2dqa4T1/1I1qN36MuIYYvAP/nKMRph246rZIHA"
    "C1O1xqqZdkPWqhwvXOFgXUDVNTZdAkUGcXWH2oJyJgWOPsyOPrrvkBwOYWYgEEXYIYhxgY"
    "hli/UBmt9x58a1MXQ9R88wMqkrxog7iHmmia7hH2yaz5X0nKueoZ3s45eLs9MdOQ+D6zAR"
    "ypbtDekx+pdHNMGXRKyIAwP/579QTJlB7okb/rRvtGtKTCMFOTVkB6pcE2tblR2tsPOTai"
    "kvZ6Hp3PQsFre212LFWdQcrlaWLgkjDhbESChAXkGgrrDInysUCMcj0SSNuMAg19gzpRpH"
    "f7/2mC4vGC2h4zu83qGGu8PInUaNfwaTSzTXtNOzS+1idqlpo5z25VQy2gmKdAAUVg5lwl"
    "XQWPheMwlbihX8fLX/1R8nhshvJQf89/T86MP0/Nmr/edyQA7Lz1+ap0HNRFV9VV1ggf1O"
    "lEJiDai/NXQQtm9LCyFwW4f65YsXFbCGVqVgqzqJdozuNYxPHBumIeqAnBEbsK6Cte0tTK"
    "pLg5yH+pLci2Ko01KPg3RYEEMdPxJawHoDtJez3y9lz5br/mUmEX32afq7AttaBzUnZ6c/"
    "h80TGjg6OTvMAB8/QOoAn5ZqBHywgH9U3IOncR3QEyLtLfXRl6/belq2DTm5t6lDXA0XmP"
    "P3AJugFilGPi2ZAd8IRHfCf/q1+I8/zS4up59+Tanj/fRyJmsmKVWEpc+yPk3UCfrt+PID"
    "kj/RH2enM4Umd8XSUSPG7S7/GMk5YU9wjfE7DRtJTMLisCilZRO7QvNcYjTQc1Z20HSXNa"
    "07ROLeQM9pyUfQcte8iBFcoHHGzHWwAp+I2oObJad1SUGvbxIUSBYssH5zhx1Dy9XwCS9r"
    "m6+yJla2BDO8VDqT4MpphpsLNr3kN4SNijYewrrxxn0HmwLVhmZNtx1W2F1lNwGAtyNX5z"
    "ZB1EUY3QByDHFGdpBcAapaiUHtDbHFO2gDrdeIX6s6yS4X2CXIJMJ9eBdi2zO4YowvuLFG"
    "lA0bFMMGxUCay0mzsiSavLPqYJyW6h3S+7sVgN7fLcVZVqVhVpatGOEZ8yyF8jHMCDOd5N"
    "COhLu8OzGCp9dFONH6S7vSyt6wsLOAh+7ZomAzqHxdp6W6DHeXbEiHSHHX0H8iTvPAigdN"
    "D6x4YMXfjRV7YnXCl6MiUhxUjTdyYmikmXxZkxLPDSIwNd25ZJXqOBtNFZ9yFTvVTQ4WC0"
    "gkME2DABk11zBzcidpqYsszxWKwDICjTByyMKjpkBqUuVH8Vsc84pdscs7jiwOHQXkdoz4"
    "LXHQ3QoLJN1Lw5V9R5MYq0EtDEMtfJJ9zT1HrJBFl3BXwrRgdNkjQI50zJCLVTMLBpOBAl"
    "qE/LPoPOcfV97kxWTfDxnINJJHmjq1sRk1UleieqzG1L+M4jWVNDeyGbgTcDu46oQjkAxX"
    "UzQFLZYBlnyvllFgn0aqC1g76oeyiImxsNKSbNNkVF+68eDUljeyHKbpBOIeqk9i2BXp7K"
    "5IvBqbMMpYusscZ/QL2CKGzWk027p62K3CdnbLyc5ujuu4ngr7ygN/yLlJMCu+AxJSGcAX"
    "INYdxB/D2z08OztJeTyHx9mD1c+fDmfAMhXs0IgKVXx8epkBO231KpublFQfAgu2vTsFxM"
    "zRwDOrF6SUluofzpO9vQpAQ6tSpFVdGurA8crjXB6zkRDpA8hth2wMZLZ8vQ9kdgtk9sL3"
    "xUcFZDasGm8is27oy4/rcNmAOLpEuAdoLohjUSZXIlC8OYHlJZfx3I/ihp8aaN7lbA4s0y"
    "IopFsHUI/IPRUB+XSAYrp0CS7YWDFRoJEk54e1P4MrFnd+IOkpLGtGfJffYybAh6SDe0sO"
    "FFeW9lNfwczuVtQkUZXqLjxo/pMvEEwKJg7jrYhpSnYulWccXDGY7i11OLPgUZeg7Z9Pj/"
    "/1efZOMnOgubcEBYqTR9LYP+wGqo1RRIybMNxIWPNZFDj0wnMfon3hEtKS4povW494qo1b"
    "BRkV6wqEMxo5LVhrzOAaZZtg2VQeNbjEUG7gt0+V36qbULOLFHHMShyllExGHUEk/dNylW"
    "C68Odvk5e7r3ffvNrffQNN1Dyjktcb9JDnUy7Xb4jQ6q3ulFAfHNDtLOXM0q2FcCjQYkj2"
    "IojdeKI0Kn5ENAqoiKRbRNz3O2piPgo8xotoxt8/tEL6FDC+ZlAHnC7u1HrdplC4D1al9T"
    "cRYp+0Dv4ZsQH5+sjnXOIc/BViITLyw+ZC1zcXhi2lH13rERmtqfOk3BD31OW4J7nxpMmN"
    "pxqkMyUzkM486Ww1fr9rWKZc8b0qrvheuSu+l3PFwZUu4fIPk6BQtkUKFBHdBgzoYzDd78"
    "9/dG5ZuAj3cq87IdKHZd22xx1FjdWxIymhPqDeQiT/DVlrDVOWFIgOoFcCXTcpsHGN2nXg"
    "Tgn1D+jHj3HxoSvYMiz17BISg1+X9+scflcHzbD5AGUeSsUh/GPuOjYgI9Y/KzCpYm0n5c"
    "Z2kn9VLQo8aOo2p3voMOajGTPOo4l+f7d5sRbE1WgB8Id0WWo2klKNTEcjpvJiu4bj7WTy"
    "6tXryYtX+2/2dl+/3nvzIrIg+apNpuTw+GdpTVI6yJsXH0PuFfhzD0MfiA3YN8PeITp3DD"
    "mvHPbldDEl1GET01nCGIZ8NditzYgOG7Zd3rD9ky/qOExB8z7cUS3wUkBLa3rmkZUdbqMu"
    "30bZINOq91NWrn831uNEh+UC0wugz+P+E3cIkLuPZJ1jJBmgg+jy35J9PS3Uv4ZLKyyNp+"
    "jguyhCN7fiAAS4dOK/QHY0vTiavp/5cb3fI+5fCLhGf33kAv+DuvHmyP9Eq+qJ3ThywWFk"
    "BnL4nQxgV9mZVKA9FS5Uw6Lxs63BfBOR9nPbIdfEIUxlfldx+UsqVt5Csx1+TU1SKbN8S4"
    "P3NYWbC3jC+g1I+tbt2dsK5uxtqTV7+1DUdqBCEWYxrEp4snJ9eJC0zXmSGGr0tin8geig"
    "gcYaAMMGvtmq8V2Qkx908Ti6aHZXFHUxaOQb7VPzlHEbuhlIZpdJZtq9a3AjJiSH+6/+/S"
    "dzLNUKxIsE+oD2tiPxEnSmztLOiPUB6SG/Q2dU0eNgfM82Gmo9LTlovStaL3Ai1Oy7ktVj"
    "7QpifSKAvT4q2uFL1o837vKplpqlmtbNWAlSWG6/JNNHMgSqJ0viqM87Qjlh3Fuu1LcbZd"
    "gVCr6GoJ41LhJ8Q3bKx+u/ZqILK0KuenbDNJLB3yi94SPmftgUJlE13UBg1b5tv3D7QW2t"
    "xEeU7yDGy6CqmxpLdDmXYWcc1VtsekWHTSbHJQs8ksjgey1FniDCGxB9f/b58GSGfj2fHR"
    "1fHJ+dph+AqlIWxTkLz2fTk2wyPUbrpdEL2vfB9992+Gb4dKpDsZIyfcB44FedUcUT9bQ7"
    "nj8vDmMocLNTMQ7lPnb647LV/Wv1FTLTW/ofITP5kjKVye1AJVsHjKnMWSK/RKaOtz+fn8"
    "hPpss/2JR54EBM/uGecKlB0M9UfPAWzw+SufHKne82Bpc54ufRyYbNlZ+vc8vGjsyQBxUg"
    "jnT5JbVnR2cnJ7AU0enZ0fRi9nyMXCpP8/1+kcGJi1y+Ex3cU2MOghZRvfgXoyIDrliUTH"
    "6M5kAa5BKBSw+O/dVLofNYSKyoY4z9jPXyUgWHofxquBAGgkoOO/qK3spf8XD0Xqx6HS3w"
    "Q6R+Gz74tjXnX1qXOtCG7QdoH4Q2YVPrIJwRexQHtUM4v6yUgf/lhhT8L/M5+APMPKfgbb"
    "kHTxEDqYEJND7Br7tBlhLr0eufLb9JZHIdm5qNRcGXOstXfVqqFztkbS/7hYOZXuvzqLFE"
    "i8lVLExbCiLd0ocR4pnVgDoj1geznt1Eq7aLtmkbLfcEpf4HqW4L/OyN37FJybX4JZvQgX"
    "m6X7JxNf+lTlL08HwA8qTkAHp10OOthmKL8vDL/ukeOmxc5MtCiZl+/7f9W06C3W0Tvo3n"
    "pcoi666Z3jQDbUJ2CJztTsxLPtQJngBy47PJkyOWG54b1Z8bCjWtvtuflRssWSVL5u/kNz"
    "phzIgOdqzLdmw4SC6/y/p1kDwE6vZZ648QqJvgCYmP3WV8m0Dyp4/nxMQlGzz57+o9Sfue"
    "y3vwdZsBFlPiUH01KoiuCGrGm0IrcNzmobCKchge+YD+RwnO/caMk+Vn7rfEcWvuvCZEen"
    "Gs0Iana9fK8Rs07yG628mjzJko/BqSfI2hxLGMRbL+BdUF+h8yqduzEGcJxuYjsuxpWMY7"
    "kB0cFiU1ajNa8Ov/AZQNH2w="
)
