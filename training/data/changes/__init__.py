"""Random changes to training images and their targets.

augment: what a recipe's section of that name asks for.
policies: those of torchvision, for a batch.
mixing: of two images each.
"""
