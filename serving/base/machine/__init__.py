"""The machine: its cores, its NVIDIA GPUs, its heap."""
