"""What training and search share: the loop, budgets, checkpoints, records, progress and the device."""
