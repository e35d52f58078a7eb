"""The sources of a recipe's data section, a module each: every one makes a Dataset.

image_folder, identity_folder, mask_folder: folders of files; split_folders tells their splits.
csv_listing: files named in a table.
torchvision_sets: public data sets.
digits, connectors: images that come with the project.
"""
