"""The `aetheria` command in a clone: `torchrun --nproc_per_node=8 cli.py train config.yaml`."""

from aetheria.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
