"""How weights are learned: objectives, schedule, runs."""
