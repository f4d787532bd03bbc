"""LDM-PIR in PyTorch: the U-Net, the Krylov-subspace modules and the bridge sampler."""
