"""`python3 -I -S …/packing VERB HOME TREE`: one verb for each thing to do inside (see VERBS)."""

from __future__ import annotations

import json
import os
import resource
import sys
from importlib import import_module

# verb → (module, function). Each takes home and tree; what it has to say goes to its streams.
VERBS = {
    "pack": ("pack", "pack"),  # stdout: the tar
    "look": ("pack", "look"),  # stdout: the digest of a scan, JSON
    "unpack": ("unpack", "unpack"),  # stdin: the tar
    "check": ("unpack", "check"),  # stdin: the tar; stdout: its manifest, JSON
    "survey": ("survey", "survey"),  # stdout: JSON
    "bundle": ("bundle", "bundle"),  # stdout: a git bundle
}
EXIT_REFUSED = 3  # the reason is the last line of stderr, as JSON


def importable_name() -> str:
    """As in the keeper's own __main__: the parent goes to the *end* of the path."""
    folder = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path[:] = [entry for entry in sys.path if entry != folder] + [os.path.dirname(folder)]  # noqa: PTH120
    return os.path.basename(folder)  # noqa: PTH119


def main(package: str, verb: str, home: str, tree: str) -> int:
    # A directory deep down is reached through one descriptor for each above it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    module, name = VERBS[verb]
    refusals = import_module(f"{package}.refusal")
    try:
        getattr(import_module(f"{package}.{module}"), name)(home, tree)
    except refusals.Refused as refused:
        said = {"refused": refused.code, "count": refused.count, "paths": refused.paths}
    except BrokenPipeError:
        return EXIT_REFUSED  # the gateway went, or wants no more
    except OSError as error:
        said = {"refused": "system", "count": 1, "paths": [f"{error.strerror}"]}
    else:
        return 0
    sys.stderr.write(json.dumps(said) + "\n")
    sys.stderr.flush()
    return EXIT_REFUSED


if __name__ == "__main__":
    # At once: each verb has flushed what counts, and to flush a broken pipe again would only complain.
    os._exit(main(__package__ or importable_name(), *sys.argv[1:4]))
