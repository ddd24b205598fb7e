"""Another model, which no run here uses: its edits are nobody's business."""

from aetheria import register_model


@register_model("Other")
class Other:
    pass
