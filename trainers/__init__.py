"""PPO and SPO on envpool environments, in torch; every run reports through rltelemetry."""
