"""A repository's number on GitHub, which survives its renames."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tortoise import BaseDBAsyncClient

RUN_IN_TRANSACTION = True


async def upgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query(
        "ALTER TABLE workspaces ADD COLUMN github_id BIGINT CONSTRAINT workspaces_github_id_positive CHECK (github_id > 0)"
    )
    return "SELECT 1"


async def downgrade(db: BaseDBAsyncClient) -> str:
    await db.execute_query("ALTER TABLE workspaces DROP COLUMN github_id")
    return "SELECT 1"


MODELS_STATE = (
    "eJztXW1v2zgS/iuEP6VALmicl7abwwFO6rbZpPEiSW8Xez3ItMTYvEikV6SSGN389xtSkv"
    "XuSGqsOqq+xDHJR6SeociZ4Wj8redwi9hiZ2CaRIgzsuj9gr71GHYI/JOt3EY9PJ9HVapA"
    "4omtW2PdzLglC12OJ0K62JRQdYNtQaDIIsJ06VxSzhTg5NPw5Ez8glR3CDMLARRhlyDGJS"
    "LOXC6O0Pieu7dijuHSY0QFwujXq9EFsqmQiLuIebaNtjD84TdIzojzahuNue4B2geN+eR/"
    "xJQ7alAWN2FUlE1/UP8eo395xJB8SqC1C6P4z3+hmDKLPBARfp3fGjeU2FZCGNRSF9Dlhl"
    "zMddnJDLsfdEt1bxPD5LbnsKj1fCFnnC2bw62r0ilhxMWSWDHRqBsJBBkW+WOFAul6ZDlI"
    "KyqwyA32bCXg3j9vPGaqu0ZTuPA9XuxQS+wwcm9Q61/B4GLNDeNidG1cDa8No5eZF2ooKV"
    "EFRSawCnOKMik0NQ5+MGzCpnIGX/cOH/1+Ior8VqrDfw8uTz4NLrf2Dl+pDjlMTH/SXgQ1"
    "fV31qC+BJfYvogUSSUB/VpBB2L4pKYTErZ3q3devS3ANrQrJ1nWK7YjdG+ifuHMYhqxCcg"
    "rWcV2G67k3sampluos1dfkQeZTnUQ9D9NhQUR1tFk0wPUKaq+Hf1yrKztC/GXHGd36PPhD"
    "k+0sgprz0cXHsHlMAifno+MU8dFuUoX4JKoW8cEE/ll5D7bkKqTHIM1N9d63x3Xtlk1TTh"
    "7m1CXCwDnL+XugTVKH5DOfRKbItwLoTvhPuyb/6efh1fXg828JcbwfXA9VTT8hirB0K63T"
    "LC+Cfj+9/oTUV/Tn6GKo2eRCTl3dY9Tu+s+eGhP2JDcYvzewFeckLA6LElK2sZCGJ4hVQ8"
    "5pbCfpTZa06RLFew05J5HPIOVN0yJ6cIPWiNmLYAa+ELEHD0tG6soEvbmNmUCqYILN23vs"
    "Wkamhvd5UdtsldN30iWY4amWmSJXDTN0O3hyds6nvTyPRFC1vdIfAY0Mm08reiPGFpGY2g"
    "lzP7Dg0UDbuEI7CUybw9KFKEMm9I04iB9ugdzDf0QgxxNS+xEYgUYYuWTiUVsiPbpiV0RT"
    "nT/th/jWi8QUf4JVM9igYYYJrR4FyFBAS9KNCGNQ60FLJnjke/oSIA79RS8ysb6wvk3Vpk"
    "6vPrp253Sung3VTd0BRFcoP4jO57OxPp9oNmalMGSeoyVxCkPEzCQZiUToTbaWe79yz2XY"
    "HixHW1UO+2V8FPvFLor9jIdCeNqbnCX+mHObYJb/BMRQKcInANscxp9DgTwejc4TSsTxad"
    "oq+/L5eHi5tatph0ZU6uLTi+sU2clVr/Ryk0C1wSuRnNSH+yUm9eF+4aRWVUmewdZxDVB2"
    "qnk4k6j28dw/OChBNLQqZFrXJakO9KgqDp8YpA0kN+3v6ezD4vne2YdrsA+vfF28l2Mfhl"
    "Xbq+xDEery21XMw8DyEkSKIzSWxHUoUzNxvI3GBKaXmsZjfZqsvhogecHZGMw0h6DQ3DqC"
    "ekQeqAysNxdsNEGnoIJta1MO3c9IRg9rfgRfWXTxI7AnoS1jxFf5PWYDfUgpuHfkSKFnxL"
    "aV1apEAc2h7zvqcubAvpVjzdYwQpenIIZv6IDOLT3xlGUWStmIww0fW8021O5KfcNULkrY"
    "hMuek8BKfQb3qNoEki3da3CLIa4zQV+qCaqfLGOeJ4hTVqDLJDApcQQn5S9Lm4Hhwsc/+r"
    "v7b/bf7h3uv4UmepzLkjcr5JA1eQQ3b4k0qs3uBKgNOuJ6pnJq6lZiOAQ0eOQ6wWLWzFqx"
    "Fksn2iLqeKgidIOM+1pDRc57gVJ3tRxx9VCaUpE0KwJp0twrnQL6NyzqglLD3UrhNLngNq"
    "wqjUcaRJpmFf5TsI756sxnVOIM/SUiAFL4zv7fdPu/8/r87FJfGqMVZR7HddE+mxzto3xD"
    "hvINVTA6E5jO6MwanY2+QLBpXCZU8YMyqvhBsSp+kFHFQZUusOWfNoJCbIMm0NLQrWEBnQ"
    "XD/fH2j8kdB+fxXqx1xyBtmNZNa9zqRReTznElr0oC1AbWG3hF5pYsjJqvJOVAO9JLkW7a"
    "FKxxg86r0J0AtY/o5w9D8anLcRkWanYxRKfXZfU6l99XYTNs3lGZpVLbEP5JdJU1IAVr3y"
    "rQL7Pa9osX235mrY1iA+qqzckrbDDnvSGzLpcD/fFq82QhiTBoDvHHdFq4bMRRtZaOWpbK"
    "6/UuHO/6/b29N/3Xe4dvD/bfvDl4+3q5gmSrVi0lx6cf1WqSkEF2efE55F6OPvc09QGs47"
    "4e9y4xuWupcWW4LzYXE6ANXmI21mBMR02V3VHTuDZwv45wh0wwZA71Wd4/cJeAtnJGFpkt"
    "NkV0ENH4e/xaL4v1x3BqhaXREF18vww5y8w4IAFunfgvLZwMrk4G74d+oNqPiDWVEu7Rnx"
    "+ZYNOgbnt1tGmsVfnUSBwJWAGZhcBoUGGWkt8SpoM7qRRQDZPGT1kE441Fd47nLrkhLmGp"
    "vEVPpkJaX39tTX0kgEKYpYFuufZV612JRetd4Zr17qlgwymVM29iaLFX2afTuDZsF01v1X"
    "EODXpXl/4A2kmgtgRgLXOJmNV+CjL4ThbPI4t6T0XeJTqJfOf6VD+9z4rLdDEhmxwTovJb"
    "VopfWALa8LStO4AhpkFXWeNSsDYw3b25ujGiaHEMoze3ako9ieykvilSz9nE9Og35X3lhZ"
    "DE+UyAe7OX50eK12+v9CXploajm1ZNbwUorMz/3BRTDMEcIFPi6lzY0IAw7k1n6Ia7yiOk"
    "PEATbi2Q3nQEknxFKqs1dFTxjWFnyWX5TE5JboPPZSqnZ3yJdtV5U9n3NoN17vs8WOuPDm"
    "jkoKnYpxVNg7KKa4TY5LxNG6O63mHbyzvksDkumOBLRIrfGwV5gQyvYPT96Mvx+RD9djk8"
    "Ob06HV0kt0RdqYqi/EyXw8F5OnEQo9VSBgXt22ANrDsOJtymqhhdcUwbOO4sro0RxQvVvT"
    "c8V1B0fJ6jeCfO1ou17mQW/vIaN2iqSNje1FeDbT6lTCfJOdKZWYFjql7+RjMs9Bnrl8tz"
    "tIX1B7Y5IwqmPrgnBbUI+kjlJ2/yqljxXlN/X9lXNl561Odcq/Umd+bYJRa6hwpAIBMLgr"
    "ZORufnMOHQxehkcDV8tY0EVQfH/qWQxYlAgu+g8HLUGgPQIfoq/vj1IfRX5tApPLtAaKuP"
    "kH+KNDbdr+esTf9WT3sVasP2HbVPUhtb8KownII9i464QTzvlkr4u7si4+9uNuVvwJnn5k"
    "T+P3nGG6A6Zbz2sW5VH1UC1qJXWRqOira5iW1jjuWsyqxPolrhpGp62k9czMwc0osX9QjR"
    "4IviDqYNRRauKQ9zNLIKVKdgbVjW036sco6sVZ6szA5K/d+/uMvRs1emzU/gGkycHyowLz"
    "dxvjD8F1RI3ub5BOVxZEd6edJ10jCxYGbdhGMxbBdwtjln9dkQjc5NXLybtMtN3AXmtFnq"
    "zxCYE3N2xdL2pzbcAPnh7JLYuEB3zP5CwItc3zNv0z2u8/hkQFxqzno5ZydBzfbKH+KL2j"
    "x1aFJMwzP7/n+W0JvvTMxR7M6/I66oaNTFIK3wWDRgPquHqgLDQfMWsruedFOcydyk0SpW"
    "sUCxjCBp/YKaEv2NbCpaFsCkyFjtfUs72lLagbrAcd6r8k3GAjz+HwLdL/s="
)
