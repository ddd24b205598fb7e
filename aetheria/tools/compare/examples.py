"""Which global batches have examples that differ between two runs, by the fingerprints of their
data alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aetheria.data.feed import epoch_order
from aetheria.engine.record import RunRecord
from aetheria.tools.compare.recorded import Rows, differing_rows

_ORDER_KEYS = ("seed", "batch_size")


@dataclass(frozen=True, kw_only=True)
class DifferingExamples:
    """Examples of the training split whose digests differ.

    Attributes:
        rows: the ranges that hold them.
        first_step: the first step whose global batch has any of these rows; None: not known.
        in_parting: those of these rows that the global batches of the steps have between which the
            runs part; where that is one, this example differs.
    """

    rows: Sequence[Rows]
    first_step: int | None
    in_parting: Sequence[int]


def find_examples(
    a: RunRecord, b: RunRecord, last_equal: int, parting: int
) -> DifferingExamples | None:
    """Finds them; None: the fingerprints do not differ row by row.

    Args:
        a: the record of A.
        b: the record of B.
        last_equal: the last step that is known to be equal, 0 for none.
        parting: the first step that is known to differ.
    """
    rows = differing_rows(a, b)
    if not rows:
        return None
    order = [a.config.get(key) for key in _ORDER_KEYS]
    seed, batch_size = order
    if order != [b.config.get(key) for key in _ORDER_KEYS]:
        return DifferingExamples(rows=rows, first_step=None, in_parting=())
    assert a.provenance is not None and isinstance(seed, int) and isinstance(batch_size, int)
    size = a.provenance.data["train"].num_examples
    steps_per_epoch = -(-size // batch_size)

    def differing(step: int) -> list[int]:
        epoch, number = divmod(step - 1, steps_per_epoch)
        taken = epoch_order(seed, epoch, size)[number * batch_size :][:batch_size].tolist()
        return [index for index in taken if any(start <= index < stop for start, stop in rows)]

    steps = range(1, steps_per_epoch + 1)
    window = range(max(last_equal + 1, parting - steps_per_epoch), parting + 1)
    found = {index for step in window for index in differing(step)}
    return DifferingExamples(
        rows=rows,
        first_step=next((step for step in steps if differing(step)), None),
        in_parting=sorted(found),
    )
