"""The journal by workspace and by principal, which stand in its details.

Indexes over expressions: they need no column of their own, and no row is touched. The expressions are those of
gateway/store/journal.py, letter by letter, or SQLite does not see that an index answers the question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True


async def upgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query(
        "CREATE INDEX auth_logs_workspace_created_at_idx ON auth_logs "
        "(coalesce(json_extract(details, '$.workspace'), json_extract(details, '$.login_name')) COLLATE NOCASE, created_at)"
    )
    await db.execute_query(
        "CREATE INDEX auth_logs_principal_created_at_idx ON auth_logs "
        "(coalesce(json_extract(details, '$.principal'), json_extract(details, '$.by')), created_at)"
    )
    return "SELECT 1"


async def downgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query("DROP INDEX auth_logs_principal_created_at_idx")
    await db.execute_query("DROP INDEX auth_logs_workspace_created_at_idx")
    return "SELECT 1"


MODELS_STATE = (
    "eJztXW1v2zgS/iuEP6WAL2icl7abwwFO6m6zTeNFkt4u9nqQaYmxiUikV6SSGL389xtSkv"
    "XuSG6sKqo+2SY5JPUMNZwZDsffeg63iC12h6ZJhPhElr1f0Lceww6BL9nKPurhxSKqUgUS"
    "T23dGutmxi1Z6nI8FdLFpoSqG2wLAkUWEaZLF5JypghOP45OP4lfkBoOYWYhIEXYJYhxiY"
    "izkMtjNLnn7q1YYOh6gnYwsqmQfcRdxDzbRjfwBdv2K0094bpnaKf6+O1qfLGr5mFxEyZC"
    "2ay+IT1G//aIIfmMyDlxYeD//BeKKbPIAxHhz8WtcUOJbSUgp5bqQJcbcrnQZadz7H7QLd"
    "XjTA2T257DotaLpZxztmoOT6tKZ4QRF0tixRigniBgV1jkzxUKpOuR1SStqMAiN9izFRt7"
    "/7zxmKkeGM2g43u83KWW2GXk3qDWv4LJxZobxsX42rgaXRtGL8N9NZUUd4IiEwCFlUOZFB"
    "oaBz8YNmEzOYef+0eP/jgRRH4rNeC/h5enH4eXO/tHr9SAHJafvzQvgpqBrnrUXWCJ/U40"
    "QyIO6M8KPAjb18WFELitQ733+nUJrKFVIdi6TqEdoXsD4xN3AdOQVUBOkXVYl8F64U1tai"
    "qBnIX6mjzIfKiTVM+DdFgQQR1tCTVgvQba69Gf16pnR4i/7TiiO5+Hf2qwnWVQcz6++DVs"
    "HuPA6fn4JAV8tIFUAT5JtRHwwQL+WXEPduMqoMdI6lvqvW+P29ot64acPCyoS4SBc8T5e4"
    "BNUofkI5+kTIFvBaS74Zd2Lf6zz6Or6+Hn3xPseD+8HqmaQYIVYelOWqdZdYL+OLv+iNRP"
    "9Nf4YqTR5ELOXD1i1O76r56aE/YkNxi/N7AVxyQsDosSXLaxkIYniLUBn9O0HaebzGnTJQ"
    "r3DficpHwGLjdNi+jBA1pjZi+DFfhC2B68LBmuKxP05jZmAqmCKTZv77FrGZkaPuBFbbNV"
    "zsBJl2CGZ5pnClw1zdC54Mn5OZ/18vwOQVV/rdcBGhk2n1X0OUwsIjG1wXKnwjfc0VCbtk"
    "Kb8qbNQWIhypAJQyIOXIeZk3v4RgRyPCG1x4ARaISRS6YetSXSkyp2Omx5zKe9Dt96EVPi"
    "76tqBtsxrCehlaGAMmTHCmIjogGL/0HzIXjBe7oLAF//0CIlNhbWj6nabDKqT73x4HSh3g"
    "Q1zKYTiHooP4nOw9NYD0+0GrNcGDHP0Zw4gyliZpIMRyLqJtvGvd+45zJsD1ezrcqHgzIe"
    "iYNih8RBxh8hPO0hzgJ/wrlNMMt/A2JUKcCnQNYcxJ9DXTwZj88TKsPJWdoG+/L5ZHS5s6"
    "dhh0ZU6uKzi+sU2EmpV1rcJKja4INILuqjgxKL+uigcFGrqiTOYNm4Bqg21fyZSar24Tw4"
    "PCwBNLQqRFrXJaEO1Kcq7p0YSRtArtu701mDxeu9swa3YA1e+bp4L8caDKv666xBEery/S"
    "rGYGB5CSLFMZpI4jqUqZU46aMJgeWllvHEP/CFnwZwXnA2ATPNISg0t46hHpEHKgPrzQUb"
    "TdAZqGB9bcqh+znJ6GH1z+Arizo/BnsS2jJGfJXfYzbAh5SCe0eOFfWc2LYyVhUroDmMfU"
    "ddzhzYtyIjdgPbc3XUYfj2Daja0hNPGWQhc404ueHTVjMJtU9SPyeVyxKm4GrkJGGlMYNn"
    "VG0ChpYeNXjEkK6zPF+q5alfKGORx4gzVqDCJGhS7AiOw1+WEgPThY9/DPYO3hy83T86eA"
    "tN9DxXJW/W8CFr6Qhu3hJpVFvdCaI2qIbbWcqppVsJ4ZCgxnPVKRbzemTFVgycaIvYxDEV"
    "UdeIuK8sVMS8F+hyV6sZV4+XKRUusyZaJo290ilgfMOiLqhD3K0UM5NL3AapUns4QaRgVs"
    "E/RdYhXx35jEqcgb/EMX+KvjP7m272d86en53rK2O0Is/jdF1IT5NDepRLyFAuoQpGZ4Km"
    "MzqzRmettwSahmVCFT8so4ofFqvihxlVHFTpAlv+aSMopK3RBFoZuhtYQJ+C6f54+8fkjo"
    "PzcC/WumMkbVjWdWvc6jaLSRe4klclQdQG1Gu4B3NLlsaG945ySDvQS4Fu2hSscYMuqsCd"
    "IGof0M8ffeJDl+MyLNTsYhSdXpfV61x+XwXNsHkHZRZKbUP4B9BVZECKrH1SYFBG2g6Khe"
    "0gI2ujkIBN1eZkDw3GvDdi1uVqoj9ebZ4uJREGzQH+hM4KxUacaiPRsZGl8nq7guPdYLC/"
    "/2bwev/o7eHBmzeHb1+vJEi2ap0oOTn7VUmTBA+y4sXHkHs5+tzT0AdkHfabYe8Sk7uWml"
    "cG+2JzMUHUYBHTWIMxHTVVdkdN07UB+22EO2RiIHOgz+L+gbsEtJVPZJnZYlNAB4GMf8T7"
    "elmoP4ZLKyyNpuji+1XIWWbFAQjw6MS/q3A6vDodvh/5gWo/IsRUSnhGf31kYkyDuv76IN"
    "NYq/JZjjgSIAGZhcBoUNGVkt8SpmM6qRRQDYvGT0UE840FdU4WLrkhLmE6H1E86DI/s9Gz"
    "D9PWbEYCkIM1GWiSW5dR70qIqHeFEurdU6GFMyrn3tTQ3K6yK6fp2rA51L0xxzE06N2m8A"
    "ekHQc25gCIMJeI+cZvQYa+48Xz8GKztyKvi44j3ymfNs/Ys6abLgKkyREgoLZVi1ZYEbTh"
    "bdt2uEJMca4i41JkbUC6u57aGFa0OGLRW1gbcj1J2XG9KVzP2cT07JtyKXkpJHE+E8De7O"
    "V5jeL1/bWeI93ScHTTqhmrgAor8z+ePoohYD2ZEVcnsoZywrg3m+ss1epsGjE+5dYS6b1G"
    "IMnXZKd6vv4r3gZ2VsiVT86URDL4XGVnesYLsuvOksreyQyk2vf5q7Z/8l/LIVKxBytaBm"
    "XV1IiiyamYGqOo3mHbyzvAsDkuWOArihS+N4rkBSK8BtH34y8n5yP0++Xo9OzqbHyR3AB1"
    "pSqKUi5djobn6VxAjFbLAhS0b4Puv+0Yl3B3qmJixWnagHFnXzWGFS9U0254+p/oaDxHzU"
    "6cmxfr2Mk0+uX1a9BUkbC9mdJyMbL5jDKd9+ZYJ1sFjKm62I3mWOiD1C+X5+rPYdQHtjkj"
    "ikx9cE8KahH0K5Ufvemr43hqn2Llu47Bv7KvbLLyrC+41vNN7iywC03uoQLIkYkFQTun4/"
    "NzWIroYnw6vBq96iNB1bmx3y+yOBFI8F0UdketCRA6RPfiP4w+g/7KHDqDtxqg7qMJGA1q"
    "icCjB6mM9M2ZSUQk59S1Wn3m/FNkuen+QWdrKrySEVWgDdt30D4JbUwyVkE4RfYsamaDcN"
    "4rlQZ4b00e4L1sIuAAM8/NuRjw5KFwQNXp8xufA1d1cyXIWnTTpeagaZub2DYWWM6rrPok"
    "VSv8XHUv+6mLmZkDerFQjyhqvEfuYFpTKOKWsjNHM6sAdYqsDWI97Qor5wtb5wzL7KDU/1"
    "eMuxw9e20y/QRdjen0QwXm5abTF4Z/f4XkbZ5PQB6n7EAvD3rkMMiXKE/fa0z20GDhoq6R"
    "xGb64y821pzvs9kifBv7pU6YJ5bM3DTZXoy2C79sTuRKNmCpO0Ypfs/adYzSham1mevPEK"
    "YW219j/1SR0iYDyg+fLomNCwyj7J9ivEj5nrlJ+rjN48Uhcak57+WcLQY1/bX/NBm1eepQ"
    "sRiGZz7Y+llC074zKU3xWdUdcUVFj0WMpBXuuBp0XfVSVUA4aN5CdLeTao0zmZswXQXxFi"
    "iWEUlav6CmRP9DNhUtC/BTYKx3Lae9yCntQHVwkpcmos5Ymcf/A6xJFJ8="
)
