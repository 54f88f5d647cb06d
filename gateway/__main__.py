"""`python -m gateway` is the `homeport` command."""

from gateway.cli import main

raise SystemExit(main())
