"""The sources of a recipe's data section, a module each: every one makes a Dataset.

image_folder, identity_folder: folders of files; split_folders tells their splits.
listings: images named in, or held by, tables.
masks: images with a class a pixel.
torchvision_sets: public data sets.
digits, connectors: images that come with the project.
"""
