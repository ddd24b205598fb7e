"""Compiles the training step of a run for many devices and reports what each of them needs."""

COMMANDS = {
    ("plan",): "aetheria.tools.plan.command:PlanCommand",
}
