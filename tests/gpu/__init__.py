"""What is tested and measured on one GPU, in order of worth; see docs/gpu.md. Started by `make test-gpu`."""
