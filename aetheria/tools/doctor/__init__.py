"""Says what this installation and this machine can do."""

COMMANDS = {
    ("doctor",): "aetheria.tools.doctor.command:DoctorCommand",
}
