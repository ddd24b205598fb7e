"""Other trainers at the same works. Nothing here imports Aetheria or Flax."""
