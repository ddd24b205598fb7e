"""`python -m support.faulty_train train …`: as `python -m aetheria`, but that the second device of
process 1 computes wrong once, at the spot check after step 10.
"""

import sys

from aetheria.cli.main import main
from support.faults import plant

if __name__ == "__main__":
    if "--process-id=1" in sys.argv:
        plant(setattr, device=1)(10, 1)
    sys.exit(main(sys.argv[1:]))
