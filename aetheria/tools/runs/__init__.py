"""Lists the runs in a folder, notes something about one, and deletes them."""

COMMANDS = {
    ("runs",): "aetheria.tools.runs.command:RunsCommand",
    ("runs", "mark"): "aetheria.tools.runs.mark_command:MarkRunCommand",
    ("runs", "delete"): "aetheria.tools.runs.delete_command:DeleteRunsCommand",
}
