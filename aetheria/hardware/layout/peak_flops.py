"""What an accelerator can compute at most: dense operations a second, by its name.

The makers' figures, without sparsity, of products that are accumulated in float32. Sources:
NVIDIA: the data sheets of A100 (2021), H100 (SXM, PCIe and NVL), H200, L4, T4, V100 and of HGX B200
(an eighth of the board), and the Ada architecture's white paper for RTX 4090. Google: the pages
"TPU v4", "v5e", "v5p" and "v6e" of the Cloud TPU documentation.
"""

from typing import NamedTuple


class _Peak(NamedTuple):
    """TFLOP/s; None: it has no unit for this dtype."""

    bfloat16: float | None
    float16: float | None
    tf32: float | None
    float32: float | None


# Words of the name, all of which are in it; the first row that fits counts.
_GPUS = (
    ("h100 pcie", _Peak(756, 756, 378, 51)),
    ("h100 nvl", _Peak(835, 835, 417, 60)),
    ("h100", _Peak(989, 989, 494, 67)),
    ("h200 nvl", _Peak(835, 835, 417, 60)),
    ("h200", _Peak(989, 989, 494, 67)),
    ("b200", _Peak(2250, 2250, 1125, 75)),
    ("a100", _Peak(312, 312, 156, 19.5)),
    ("l4", _Peak(121, 121, 60, 30.3)),
    ("t4", _Peak(None, 65, 8.1, 8.1)),
    ("v100 pcie", _Peak(None, 112, 14, 14)),
    ("v100", _Peak(None, 125, 15.7, 15.7)),
    ("rtx 4090", _Peak(165, 165, 82.6, 82.6)),
)
_SLOWER = {"mig", "laptop", "d"}  # a part of a GPU, and models with the name of a faster one
# A TPU multiplies float32 in one pass of bfloat16 by default.
_TPUS = {
    "tpu v4": 275,
    "tpu v5 lite": 197,
    "tpu v5e": 197,
    "tpu v5": 459,
    "tpu v5p": 459,
    "tpu v6 lite": 918,
    "tpu v6e": 918,
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Operations a second of one device; None: it is not in the table.

    Args:
        device_kind: the name that a framework gives it; `NVIDIA` and the like may be part of it.
        dtype: what is multiplied: `bfloat16`, `float16`, `float32`, or `tf32` (float32 with
            products of a lower precision).

    >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16"), peak_flops("TPU v5 lite", "tf32")
    (989000000000000.0, 197000000000000.0)
    >>> peak_flops("cpu", "float32"), peak_flops("Tesla T4", "bfloat16")
    (None, None)
    """
    if (tpu := _TPUS.get(device_kind.lower())) is not None:
        return tpu * 1e12 if dtype in ("bfloat16", "tf32") else None
    words = set(device_kind.lower().replace("-", " ").split())
    for name, peak in _GPUS:
        if words.issuperset(name.split()) and words.isdisjoint(_SLOWER):
            tflops = getattr(peak, dtype, None)
            return None if tflops is None else tflops * 1e12
    return None
