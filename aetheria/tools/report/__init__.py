"""Reports where the time of a run went."""

COMMANDS = {
    ("report",): "aetheria.tools.report.command:ReportCommand",
}
