"""Tables that name images and their labels.

table: the source; text_rows and parquet_rows read files, columns finds what is wanted in them.
metadata: the tables of Hugging Face's imagefolder.
"""
