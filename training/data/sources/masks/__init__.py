"""Sources of images with a class for each pixel.

mask_folder, voc: a mask file for each image; serving.images.masks says what its pixels stand for.
coco, labelme: outlines in JSON, drawn when an image is read; outlines draws them.
dataset: what all of them share.
"""
