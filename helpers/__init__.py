"""Helpers of the zero-out notebooks; the ideas stay in the notebooks.

Every chapter:
    runtime         device, seeds, exact float32, progress
    images          loads, saves and checks images
    decode          reads an image from a path, a URL, bytes or an array
    weights         finds and checks weight files
    base            a network, split at the layer that the attack reads
    splitting       splits any module at an activation
    heads           linear heads on features
    networks        VGG-16, EfficientNet-Lite0, other networks, transfer learning
    plots           figures of images and predictions
    charts          figures of numbers and feature maps
02 albatross:
    attack          zero_out, the loop
    optimizer       its steps: Adam within a budget, or towards the least visible change
    result          what it returns: the best images that it found
    visibility      where a change hides, and how visible it is
    certificate     certify, the verdict on a PNG file
03 activations:
    activations     what each layer does
    sliders         sliders over figures; the laboratory of 04
04 sweeps:
    sweeps          many attacks, one table
    losses          losses to compare with the hinge
    tables          tables of results as files
05 defence, 06 bypass:
    defence         filters, detectors, hardened bases, adaptive attacks, their figures
    ensemble        several bases as one
"""
