"""What every long-lived command shares: signals, exit codes, logging, the word to systemd."""

from sendoff_server.process.serve import CUT_SHORT, ENDED, FAILED, FORCED, SETTINGS, Part, Watched, serve

__all__ = ["CUT_SHORT", "ENDED", "FAILED", "FORCED", "SETTINGS", "Part", "Watched", "serve"]
