"""Tests a claim on a config or on a run: each proof has a negative control."""

COMMANDS = {
    ("prove", "elastic"): "aetheria.tools.prove.elastic_command:ProveElasticCommand",
    ("prove", "replay"): "aetheria.tools.prove.replay.command:ProveReplayCommand",
    ("prove", "resume"): "aetheria.tools.prove.resume_command:ProveResumeCommand",
}
