"""The callbacks that ship."""
