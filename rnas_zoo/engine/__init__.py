"""What training and search share: loop, budgets, checkpoints, records, progress, devices, processes and CUDA graphs."""
