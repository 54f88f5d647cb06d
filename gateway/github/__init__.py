"""The owner's account at GitHub: its tokens, sealed at rest, and what is asked in its name. No HTTP, no database."""
