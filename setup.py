"""The packages are found; the shipped models, which lie beside `aetheria/`, are named."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["aetheria", "aetheria.*"]), "aetheria.models"])
