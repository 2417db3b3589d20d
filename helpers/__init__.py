"""Helpers of the zero-out notebooks: as little as possible, the idea stays in the notebook.

Floors (a file imports only from lower ones): 0 images, runtime, weights; 1 base, walk, cache, networks, certificate
(on this one each may import those before it); 2 attack; 3 activations, sweeps, universal, defences, harden;
4 detectors, bypass, plots; 5 charts, sliders.
"""
