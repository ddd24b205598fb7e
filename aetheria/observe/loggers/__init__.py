"""The loggers that ship."""
