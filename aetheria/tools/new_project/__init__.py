"""Makes the folder of a new project."""

COMMANDS = {
    ("init",): "aetheria.tools.new_project.command:InitCommand",
}
