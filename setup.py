"""The packages are found; the shipped models and configs, beside `aetheria/`, are named."""

from setuptools import find_packages, setup

found = find_packages(include=["aetheria", "aetheria.*"])
setup(packages=[*found, "aetheria.models", "aetheria.configs"])
