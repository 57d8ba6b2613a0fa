"""Plans and profiles of a run's steps: memory and cost on TPU slices, computed by the TPU compiler without a TPU."""
