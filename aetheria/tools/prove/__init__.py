"""Tests a claim on a config: each proof has a negative control."""

COMMANDS = {
    ("prove", "elastic"): "aetheria.tools.prove.elastic_command:ProveElasticCommand",
    ("prove", "resume"): "aetheria.tools.prove.resume_command:ProveResumeCommand",
}
